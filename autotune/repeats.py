"""A disturbed measurement is made again: when, which one is kept, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from autotune.trial import Contamination, Measurement, TrialResult

MAX_REPEATS = 2
"""A measurement that was disturbed is repeated so often at most (``measurement.repeats``)."""


@dataclass
class Attempts:
    """The measurements made for one figure; more than one where the first was disturbed.

    All are recorded. The one that is kept stands for them; the others are superseded, which
    takes them out of every figure and leaves them in the database.
    """

    max_repeats: int = MAX_REPEATS
    results: list[TrialResult] = field(default_factory=list)

    def add(self, result: TrialResult) -> bool:
        """Take the next one; returns whether to measure once more."""
        self.results.append(result)
        return _disturbed(result) and len(self.results) <= self.max_repeats

    @property
    def number(self) -> int | None:
        """Which repeat the next measurement is; None for the first."""
        return len(self.results) or None

    @property
    def kept(self) -> TrialResult:
        """The least contaminated one that finished; where none did, the last failure.

        Raises:
            ValueError: if there is none.
        """
        if not self.results:
            raise ValueError("nothing was measured")
        finished = [r for r in self.results if r.measurement is not None]
        if not finished:
            return self.results[-1]
        return min(finished, key=lambda r: lost(r.measurement) if r.measurement else 1.0)

    @property
    def superseded(self) -> list[str]:
        """The uuids of the others."""
        kept = self.kept.uuid
        return [r.uuid for r in self.results if r.uuid != kept]


def _disturbed(result: TrialResult) -> bool:
    """Whether a measurement is worth nothing (failed as ``contaminated``) or less than another."""
    if result.failure is not None:
        return result.failure.kind == "contaminated"
    measurement = result.measurement
    # also where it was stopped early: somebody else's load must not drop a configuration
    return (
        measurement is not None
        and measurement.contamination is not None
        and measurement.contamination.marked
    )


def lost(measurement: Measurement) -> float:
    """The share of the capacity that a measurement lost to others, 0 where it is not known."""
    return measurement.contamination.lost if measurement.contamination is not None else 0.0


def half_width(measurement: Measurement) -> float:
    """Half the within-run interval of a measurement, samples/s, widened where it is marked."""
    half = (measurement.within_high - measurement.within_low) / 2
    found = measurement.contamination
    if found is None or not found.marked:
        return half
    return widened(half, measurement.samples_per_second, found.lost)


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


def warning(contamination: Contamination | None) -> str | None:
    """What to tell of a figure that was kept although it is contaminated; None if it is not."""
    if contamination is None or not contamination.marked:
        return None
    causes = "; ".join(contamination.causes) or "cause unknown"
    return f"contaminated: others took {contamination.lost:.0%} of its capacity ({causes})"
