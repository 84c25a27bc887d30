"""How far fresh runs of one configuration lie apart, and whether the machine changes meanwhile.

At its start a study runs the baseline several times: what these fresh runs differ by is its noise
floor. Between trials the baseline is run again, which refines the floor and shows a machine that
became slower or faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from autotune.stats import MIN_BETWEEN_DOF, noise_floor, t_quantile
from autotune.trial import Params, TrialResult, Value

if TYPE_CHECKING:
    from autotune.storage import MeasurementRecord, StudyRecord, TrialRecord
    from autotune.study.run import Ending, StudyRun

DRIFT_CONFIDENCE = 0.99
"""Of each of the two looks at a baseline that seems to have moved; see `moved`."""

SPARE_RUNS = 2
"""So many runs of the baseline may be lost at the start before the floor rests on fewer."""

REPEATS = ("baseline", "noise", "drift")
"""Roles of the runs that repeat the baseline through a study."""


class Drift(Value):
    """A change of the baseline's rate that noise does not explain."""

    after_trials: int
    then: float
    """Geometric mean of the baseline's runs before, samples/s."""
    now: float
    """That of the two runs which showed the change, samples/s."""

    @property
    def change(self) -> float:
        """Relative: -0.1 for a baseline that became 10 % slower."""
        return self.now / self.then - 1.0


class NoiseFloor(Value):
    """What fresh runs of one configuration differ by; the document in `StudyRecord.noise`."""

    runs: int
    """Fresh runs of the baseline behind it."""
    samples_per_second: float
    """Their geometric mean."""
    sd: float
    """Relative standard deviation between fresh runs, pooled over all configurations that the
    study measured more than once."""
    dof: float
    """Its degrees of freedom."""
    floor: float
    """Two single runs that differ by less (relative) are a tie: `stats.noise_floor`."""
    prior: bool
    """Whether the runs are too few to speak for themselves, so that a prior was pooled in."""
    drift: list[Drift] = Field(default_factory=list)
    """Changes of the machine that were noticed, the oldest first."""

    @classmethod
    def of(cls, study: StudyRecord) -> NoiseFloor | None:
        """That of a study, as far as it was measured."""
        return None if study.noise is None else cls.model_validate(study.noise)

    def describe(self) -> str:
        """``noise floor 3.1 % (5 runs of the baseline)``."""
        prior = ", pooled with a prior" if self.prior else ""
        return f"noise floor {100 * self.floor:.1f} % ({self.runs} runs of the baseline{prior})"


# --------------------------------------------------------------------------- at the start


def measure_noise_floor(run: StudyRun) -> Ending | None:
    """Run the baseline until it has ``noise.runs`` fresh runs, its trial among them.

    The runs count into the time budget and end early where only the time kept for verification
    is left. Up to two runs more are made in place of those that failed or that another program
    disturbed. Runs of earlier launches count.

    Returns:
        how the study must end; None where it goes on.
    """
    wanted = run.plan.experiment.noise.runs
    trial = _baseline_trial(run)
    if wanted == 0:
        return None
    if trial is None:
        run.observer.note("No noise floor: the baseline has no figure.")
        return None
    known = len(_repeats(run, trial))
    lost = 0
    while known < wanted and lost <= SPARE_RUNS:
        if (ending := run.asked_to_end()) is not None:
            return ending
        if not run.clock.fits(1, run.reserved_runs):
            break
        label = f"baseline, run {known + 1} of {wanted} for the noise floor"
        result = run.measure(trial.params, trial.number, label, "noise")
        if _log_rate(result) is None:
            lost += 1
        else:
            known += 1
    found = _update(run, trial)
    if found is None:
        run.observer.note(
            f"No noise floor: {known} of {wanted} runs of the baseline could be used; others "
            "failed, were disturbed or had no time."
        )
    elif run.noise is None:
        run.observer.note(f"N{found.describe()[1:]}.")
    run.noise = found
    return run.asked_to_end()


def _baseline_trial(run: StudyRun) -> TrialRecord | None:
    """The trial of the configuration in use today, if it has a figure."""
    for trial in run.database.trials(run.record.id):
        if trial.params == run.plan.baseline and trial.samples_per_second is not None:
            return trial
    return None


def _repeats(run: StudyRun, trial: TrialRecord) -> list[MeasurementRecord]:
    """The finished, undisturbed fresh runs of the baseline, verification apart, in order."""
    return [
        measured
        for measured in run.database.measurements(run.record.id, trial.number)
        if measured.role in (*REPEATS, "search")
        and measured.state == "finished"
        and not measured.superseded
        and not measured.contaminated
        and (measured.samples_per_second or 0.0) > 0
    ]


def _update(
    run: StudyRun, trial: TrialRecord, drift: Sequence[Drift] | None = None
) -> NoiseFloor | None:
    """Estimate the floor from all that was measured, and store it; None below two runs."""
    repeats = _repeats(run, trial)
    if len(repeats) < 2:
        return None
    sd, dof, _ = run.spread
    before = run.noise.drift if run.noise is not None else []
    found = NoiseFloor(
        runs=len(repeats),
        samples_per_second=math.exp(_mean([_log(measured) for measured in repeats])),
        sd=sd,
        dof=dof,
        floor=noise_floor(sd, dof),
        prior=len(repeats) - 1 < MIN_BETWEEN_DOF,
        drift=list(before if drift is None else drift),
    )
    run.database.set_noise(run.record.id, found.model_dump(mode="json"))
    return found


# --------------------------------------------------------------------------- through the study


def moved(before: Sequence[float], now: Sequence[float], sd: float, dof: float) -> bool:
    """Whether the mean of ``now`` lies beyond what noise explains; values are logarithms of rates.

    The prediction interval of the mean of m further values from n: |difference| <= t(dof) * sd *
    sqrt(1/n + 1/m), at `DRIFT_CONFIDENCE`. A study asks twice, of one run and, only where that
    lies outside, of its mean with a second one; it tells the user where both do. With nothing
    changed that is at most 1 % of checks by construction. Over 20,000 simulated studies of 200
    trials (19 checks each) it was 0.35 % of checks, and 6 % of studies were told of a change;
    ``tests/study/test_noise.py`` simulates some of it again.
    """
    half = t_quantile(dof, DRIFT_CONFIDENCE) * sd * math.sqrt(1 / len(before) + 1 / len(now))
    return abs(_mean(now) - _mean(before)) > half


class DriftWatch:
    """Runs the baseline again after every ``noise.drift_every`` trials of a search.

    Without a noise floor there is nothing to compare with, and it does nothing.
    """

    def __init__(self, run: StudyRun) -> None:
        self._run = run
        self._every = run.plan.experiment.noise.drift_every
        self._trial = None if run.noise is None else _baseline_trial(run)
        self._before: list[float] = []
        self._last = run.clock.used_trials
        if self._trial is not None:
            self._restore(self._trial)

    def _restore(self, trial: TrialRecord) -> None:
        """Go on where earlier launches were: since the last change, since the last look."""
        noticed = len(self._run.noise.drift) if self._run.noise is not None else 0
        since = 0
        for measured in self._run.database.measurements(self._run.record.id):
            if measured.role == "search" and measured.trial_number != trial.number:
                since += 1
            elif measured.role in ("noise", "drift"):
                since = 0
        self._before = [_log(measured) for measured in _repeats(self._run, trial)]
        if noticed:
            self._before = self._before[-2:]
        self._last -= min(self._last, since)

    def look(self) -> bool:
        """Run the baseline again if it is due; says whether it measured anything."""
        run, trial = self._run, self._trial
        due = self._every and run.clock.used_trials - self._last >= self._every
        if trial is None or not due or not run.clock.fits(1, run.reserved_runs):
            return False
        self._last = run.clock.used_trials
        sd, dof, _ = run.spread
        now = self._measure(trial.params, trial.number)
        if now is None:
            return True
        again = (
            self._measure(trial.params, trial.number)
            if moved(self._before, [now], sd, dof)
            else None
        )
        drift = list(run.noise.drift) if run.noise is not None else []
        if again is not None and moved(self._before, [now, again], sd, dof):
            drift.append(self._changed([now, again]))
            self._before = [now, again]
        else:
            self._before += [value for value in (now, again) if value is not None]
        run.noise = _update(run, trial, drift)
        return True

    def _measure(self, params: Params, number: int) -> float | None:
        """One run of the baseline: the logarithm of its rate, None where it cannot be used."""
        label = f"baseline again after {self._last} trials"
        result = self._run.measure(params, number, label, "drift")
        if result.state == "failed":
            self._run.observer.note(f"The {label} failed; the search goes on.")
        return _log_rate(result)

    def _changed(self, now: Sequence[float]) -> Drift:
        drift = Drift(
            after_trials=self._last,
            then=math.exp(_mean(self._before)),
            now=math.exp(_mean(now)),
        )
        direction = "faster" if drift.change > 0 else "slower"
        self._run.observer.note(
            f"The machine became {direction}: the baseline gave {drift.then:.4g} samples/s and now "
            f"gives {drift.now:.4g} ({100 * drift.change:+.1f} %), more than noise explains. "
            "Figures from before and after it compare less well; verification is not affected."
        )
        return drift


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _log_rate(result: TrialResult) -> float | None:
    """None where it failed, or where another program disturbed it."""
    measured = result.measurement
    if measured is None or measured.samples_per_second <= 0:
        return None
    if measured.contamination is not None and measured.contamination.marked:
        return None
    return math.log(measured.samples_per_second)


def _log(measured: MeasurementRecord) -> float:
    return math.log(measured.samples_per_second or math.nan)
