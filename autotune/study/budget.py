"""How much a study may still do: trials, time, patience. Totals over all its launches.

The time budget holds everything: the noise floor, the search, looks at the baseline in between,
and verification. For that, time is kept back while the study searches: the most runs that it may
take, at what a run has taken lately.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class BudgetClock:
    """Counts what a study has used.

    Args:
        trials: trials in total, the baseline included; None for no limit.
        seconds: time in total, verification included; None for no limit.
        patience: trials without a better figure, by more than noise, after which the search ends;
            None for no limit.
        used_seconds: what earlier launches used.
        now: monotonic clock, seconds.
    """

    trials: int | None
    seconds: float | None
    patience: int | None
    used_trials: int = 0
    used_seconds: float = 0.0
    now: Callable[[], float] = time.monotonic
    since_better: int = 0
    """Trials since the last one that was better by more than noise."""
    _to_beat: float | None = field(init=False, default=None)
    """The figure of that one: smaller gains add up until together they are more than noise."""
    _started: float = field(init=False)
    _durations: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._started = self.now()

    @property
    def this_launch(self) -> float:
        """Seconds since this launch began."""
        return self.now() - self._started

    @property
    def elapsed(self) -> float:
        """Seconds used by all launches."""
        return self.used_seconds + self.this_launch

    @property
    def remaining(self) -> float | None:
        """Seconds left, never negative; None without a limit."""
        return None if self.seconds is None else max(0.0, self.seconds - self.elapsed)

    @property
    def run_seconds(self) -> float | None:
        """What a measurement takes, as the mean of the last ten; None before the first."""
        recent = self._durations[-10:]
        return sum(recent) / len(recent) if recent else None

    def took(self, duration: float) -> None:
        """Note the seconds of a measurement that is no trial of its own."""
        self._durations.append(duration)

    def fits(self, runs: int = 1, reserved_runs: int = 0) -> bool:
        """Whether so many measurements of the usual length are expected to end in time, with the
        time for ``reserved_runs`` later ones kept back."""
        if self.seconds is None:
            return True
        needed = self._expected(runs) + self.kept_back(reserved_runs)
        return self.elapsed < self.seconds and self.elapsed + needed <= self.seconds

    def kept_back(self, runs: int) -> float:
        """Seconds to keep for ``runs`` later measurements: what they take at the usual length, but
        at most half of the whole budget, so that a short one still searches."""
        expected = self._expected(runs)
        return expected if self.seconds is None else min(expected, self.seconds / 2)

    def _expected(self, runs: int) -> float:
        return (self.run_seconds or 0.0) * runs

    def count(self, value: float | None, duration: float | None = None, floor: float = 0.0) -> None:
        """Note a trial's end.

        Args:
            value: its figure; None for a failure, and for what is not ranked.
            duration: its seconds.
            floor: the noise floor. The best of many equal configurations creeps upwards by luck
                alone, which is no reason to go on.
        """
        self.used_trials += 1
        if duration is not None:
            self.took(duration)
        if value is not None and (self._to_beat is None or value > self._to_beat * (1 + floor)):
            self._to_beat = value
            self.since_better = 0
        else:
            self.since_better += 1

    def exhausted(self, reserved_runs: int = 0, in_flight: int = 0) -> str | None:
        """Why no further trial may start beside ``in_flight`` others; None if one may.

        Time for ``reserved_runs`` measurements is kept back for verification (`kept_back`), and
        another trial starts only if it is expected to end before they must begin.
        """
        if self.trials is not None and self.used_trials + in_flight >= self.trials:
            return f"the budget of {self.trials} trials is used"
        if self.patience is not None and self.since_better >= self.patience:
            return f"no configuration in {self.patience} trials was better by more than noise"
        if self.seconds is not None:
            expected = self._expected(1) + self.kept_back(reserved_runs)
            if self.elapsed + expected >= self.seconds:
                return f"the budget of {self.seconds / 3600:.4g} h is used"
        return None

    def time_left(self, reserved_runs: int = 0, searching: bool = True) -> float | None:
        """Expected seconds until the study ends, verification included; None if unknown."""
        per_run = self.run_seconds
        estimates = []
        if per_run is not None and (self.trials is not None or not searching):
            trials = max(0, (self.trials or 0) - self.used_trials) if searching else 0
            estimates.append((trials + reserved_runs) * per_run)
        if self.remaining is not None:
            estimates.append(self.remaining)
        return min(estimates) if estimates else None
