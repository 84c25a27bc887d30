"""What a study tells while it runs: to a terminal, a log or nothing. No logic lives here."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.trial import Event, NodeInfo, Params, TrialResult

CEILING_PHASE = "ceilings"
"""Phase in which what is measured is no loader."""

NO_STUDY = ""
"""Phase of a measurement that belongs to no study."""


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is."""

    study: str
    trials_done: int
    trials_total: int | None
    elapsed: float
    time_left: float | None
    best_number: int | None
    best_params: Params | None
    best_rate: float | None
    baseline_rate: float | None
    num_samples: int
    phase: str = "search"
    """``noise floor``, ``ceilings``, ``search``, ``drift check`` or ``verification``, as shown."""


class StudyObserver:
    """Receives what happens in a study. Every method may be left out; none may raise.

    ``measurement_event`` comes from other threads, the rest from the study's own.
    """

    def study_started(
        self, name: str, resumed: bool, nodes: list[NodeInfo], searched: list[str], sampler: str
    ) -> None:
        """The nodes were probed and the study was opened."""

    def measurement_started(
        self, uuid: str, label: str, params: Params, progress: StudyProgress
    ) -> None:
        """A measurement starts; ``label`` is e.g. ``trial 3`` or ``block 2/4 candidate``."""

    def measurement_event(self, uuid: str, event: Event) -> None:
        """The worker said something."""

    def measurement_finished(
        self,
        uuid: str,
        label: str,
        params: Params,
        result: TrialResult,
        interval: tuple[float, float] | None,
        progress: StudyProgress,
    ) -> None:
        """A measurement ended; ``interval`` is the published 95 % interval of its rate."""

    def note(self, message: str) -> None:
        """Something the user should read, in one line."""

    def study_finished(self, state: str, reason: str) -> None:
        """The launch is over."""
