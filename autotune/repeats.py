"""When a measurement is made again, which one of several is kept, and what is said of it.

Three reasons: another program disturbed it; the infrastructure failed, not the configuration; or
it failed and everything else rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autotune.trial import Contamination, Measurement, TrialResult

MAX_REPEATS = 2
"""A measurement that was disturbed is repeated so often at most (``measurement.repeats``)."""

MAX_INFRASTRUCTURE_RETRIES = 2
"""A measurement that the infrastructure ended is made again so often at most."""


@dataclass
class Attempts:
    """The measurements made for one figure; more than one where the first is not to be relied on.

    All are recorded. The one that is kept stands for them; the others that were disturbed are
    superseded, which takes them out of every figure and leaves them in the database.

    Args:
        max_repeats: of one that was disturbed.
        max_failures: so many failures, whatever their kind, are not believed and made again.
    """

    max_repeats: int = MAX_REPEATS
    max_failures: int = 0
    results: list[TrialResult] = field(default_factory=list)
    """Those that say something of the configuration."""
    faults: list[TrialResult] = field(default_factory=list)
    """Failures that were not taken for the configuration's."""
    _last: TrialResult | None = field(default=None, init=False)

    def add(self, result: TrialResult) -> bool:
        """Take the next one; returns whether to measure once more."""
        self._last = result
        if self._no_fault_of_its_own(result):
            self.faults.append(result)
            return True
        self.results.append(result)
        return disturbed(result) and len(self.results) <= self.max_repeats

    def _no_fault_of_its_own(self, result: TrialResult) -> bool:
        if result.failure is None or disturbed(result):
            return False
        kind = result.failure.kind
        known = [fault.failure.kind for fault in self.faults if fault.failure is not None]
        broken = known.count("infrastructure")
        if kind == "infrastructure":
            return broken < MAX_INFRASTRUCTURE_RETRIES
        return len(known) - broken < self.max_failures

    @property
    def number(self) -> int | None:
        """Which repeat the next measurement is; None for the first."""
        return len(self.results) or None

    @property
    def last(self) -> TrialResult:
        """The one made last.

        Raises:
            ValueError: if there is none.
        """
        if self._last is None:
            raise ValueError("nothing was measured")
        return self._last

    @property
    def kept(self) -> TrialResult:
        """The least contaminated one that finished, one that was measured to its end first; where
        none finished, the last failure.

        Raises:
            ValueError: if there is none.
        """
        finished = [(r.measurement, r) for r in self.results if r.measurement is not None]
        if not finished:
            return self.last
        return min(finished, key=lambda pair: (pair[0].stopped_early, lost(pair[0])))[1]

    @property
    def superseded(self) -> list[str]:
        """The uuids of the others."""
        kept = self.kept.uuid
        return [r.uuid for r in self.results if r.uuid != kept]


def disturbed(result: TrialResult) -> bool:
    """Whether a measurement is worth nothing (failed as ``contaminated``) or less than another."""
    if result.failure is not None:
        return result.failure.kind == "contaminated"
    # also where it was stopped early: somebody else's load must not drop a configuration
    return result.measurement is not None and marked(result.measurement)


def marked(measurement: Measurement) -> bool:
    """Whether others took more of the machine than counts as undisturbed."""
    return measurement.contamination is not None and measurement.contamination.marked


def lost(measurement: Measurement) -> float:
    """The share of the capacity that a measurement lost to others, 0 where it is not known."""
    return measurement.contamination.lost if measurement.contamination is not None else 0.0


def half_width(measurement: Measurement) -> float:
    """Half the within-run interval of a measurement, samples/s, widened where it is marked."""
    half = (measurement.within_high - measurement.within_low) / 2
    if not marked(measurement):
        return half
    return widened(half, measurement.samples_per_second, lost(measurement))


def disturbance(result: TrialResult) -> str:
    """Why a measurement is made again, for people."""
    if result.failure is not None:
        return result.failure.cause
    found = result.measurement.contamination if result.measurement is not None else None
    return warning(found) or "disturbed"


def widened(half: float, rate: float, lost: float) -> float:
    """The within-run half-width of a run that lost a share of its capacity to others.

    Disturbance only slows: the undisturbed rate lies between ``rate`` and ``rate / (1 - lost)``.
    All of that is added to the half-width, on both sides, since ``lost`` is an estimate too.
    Where nothing was left the half-width is infinite.
    """
    return half + rate * lost / (1.0 - lost) if lost < 1.0 else float("inf")


NOT_STEADY = (
    "not steady: after measurement.max_seconds its rate still changed, or too few batches had come"
)
"""What to tell of a figure whose run did not become steady."""


def warning(contamination: Contamination | None) -> str | None:
    """What to tell of a figure that was kept although it is contaminated; None if it is not."""
    if contamination is None or not contamination.marked:
        return None
    causes = "; ".join(contamination.causes) or "cause unknown"
    return f"contaminated: others took {contamination.lost:.0%} of its capacity ({causes})"
