"""What no configuration can exceed: measured once per workload, at the start of a study.

    consumer fed from memory   the ceiling: the rate at which no loader would be waited for
    each stage fed alone       what fetch, demux, decode and collate could do by themselves

Every result is shown as a share of the ceiling, and a search that reached it, or the rate that
was asked for, ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from autotune.plugins import load_target
from autotune.storage.trials import workload_key
from autotune.study.workloads import workload_baselines
from autotune.trial import Measurement, Params, StageCeiling, TrialResult, Value

if TYPE_CHECKING:
    from autotune.storage import StudyRecord, TrialRecord
    from autotune.study.run import Ending, StudyRun

NO_CONSUMER = "no ceiling: the consumer is none"

LASTING = ("unsupported",)
"""Kinds of failure that another try cannot change: only they are kept in place of a ceiling."""


class WorkloadCeiling(Value):
    """What limits one workload, whatever its loader is set to."""

    workload: str
    """As in `TrialRecord.workload_key`."""
    samples_per_second: float | None
    """Of the consumer fed from memory, summed over the ranks; null where there is none."""
    low: float | None = None
    high: float | None = None
    """95 % interval within that run."""
    reason: str = ""
    """Why there is no rate."""
    stages: list[StageCeiling] = Field(default_factory=list)
    """Each stage alone, in one process, with the baseline's parameters; empty where the target
    does not run its stages alone."""


class Ceilings(Value):
    """All that a study measured; the document in `StudyRecord.ceilings`."""

    consumer: str
    """Its kind."""
    workloads: list[WorkloadCeiling] = Field(default_factory=list)

    @classmethod
    def of(cls, study: StudyRecord) -> Ceilings | None:
        """Those of a study, as far as they were measured."""
        return None if study.ceilings is None else cls.model_validate(study.ceilings)

    def workload(self, key: str) -> WorkloadCeiling | None:
        """That of the workload with this key; None where it was not measured."""
        return next((found for found in self.workloads if found.workload == key), None)

    def share(self, key: str, samples_per_second: float | None) -> float | None:
        """A rate over its workload's ceiling; None without one of the two."""
        found = self.workload(key)
        if found is None or not found.samples_per_second or samples_per_second is None:
            return None
        return samples_per_second / found.samples_per_second


# --------------------------------------------------------------------------- at the start


def measure_ceilings(run: StudyRun) -> Ending | None:
    """Measure the ceilings of every workload that has a baseline; those of earlier launches stay.

    They count into the time budget and are left out where only the time kept for verification
    is left. One that fails is noted with its reason and does not end the study; the next launch
    tries it again, unless the target cannot do it.

    Returns:
        how the study must end; None where it goes on.
    """
    plan, kind = run.plan, run.plan.experiment.target.consumer.kind
    found = Ceilings.of(run.record) or Ceilings(consumer=kind)
    told: set[str] = set()
    for params in workload_baselines(plan.searched, plan.baseline):
        key = workload_key(plan.space, params)
        if found.workload(key) is not None:
            continue
        if (ending := run.asked_to_end()) is not None:
            return ending
        if not run.clock.fits(2, run.reserved_runs):
            break
        one, lasting = _of_workload(run, params, key, consumer=kind != "none")
        if (ending := run.asked_to_end()) is not None:
            return ending
        if lasting:
            found = found.model_copy(update={"workloads": [*found.workloads, one]})
            run.database.set_ceilings(run.record.id, found.model_dump(mode="json"))
        sentence = f"{_sentence(one)}."
        if sentence not in told:  # without a consumer it is the same for every workload
            told.add(sentence)
            run.observer.note(sentence)
    run.ceilings = found
    return None


def _of_workload(
    run: StudyRun, params: Params, key: str, consumer: bool
) -> tuple[WorkloadCeiling, bool]:
    """The ceiling of a workload, and whether it is to be kept: it was measured, or never can be."""
    alone = _stages_alone(run, params)
    if not consumer:
        none = WorkloadCeiling(
            workload=key, samples_per_second=None, reason=NO_CONSUMER, stages=alone
        )
        return none, True
    spec = run.specification(params)
    fed = run.measure_as(spec.in_mode("ceiling"), 0, "consumer fed from memory", "ceiling")
    if fed.measurement is None:
        reason = f"no ceiling: {_why(fed)}"
        none = WorkloadCeiling(workload=key, samples_per_second=None, reason=reason, stages=alone)
        return none, fed.failure is not None and fed.failure.kind in LASTING
    return _ceiling(key, fed.measurement, alone), True


def _stages_alone(run: StudyRun, params: Params) -> list[StageCeiling]:
    """What each stage reaches alone; none where the target does not run its stages alone."""
    if not load_target(run.plan.experiment.target.name).runs_stages_alone():
        return []
    spec = run.specification(params).in_mode("stages")
    stages = run.measure_as(spec, 0, "slowest stage alone", "ceiling")
    return [] if stages.measurement is None else stages.measurement.stage_ceilings


def _ceiling(key: str, fed: Measurement, stages: list[StageCeiling]) -> WorkloadCeiling:
    return WorkloadCeiling(
        workload=key,
        samples_per_second=fed.samples_per_second,
        low=fed.within_low,
        high=fed.within_high,
        stages=stages,
    )


def _why(result: TrialResult) -> str:
    return result.state if result.failure is None else result.failure.cause


def _sentence(one: WorkloadCeiling) -> str:
    if one.samples_per_second is None:
        text = one.reason
    else:
        text = f"ceiling {one.samples_per_second:,.0f} samples/s (the consumer fed from memory)"
    if one.stages:
        parts = [f"{s.name} {s.samples_per_second:,.0f} with {s.concurrency}" for s in one.stages]
        text += f"; stages alone, samples/s and threads: {', '.join(parts)}"
    return text[:1].upper() + text[1:]


# --------------------------------------------------------------------------- reached


class Goal:
    """When a search has found what there is to find.

    The best of many noisy runs is faster than it is, so a single figure at the goal is not enough:
    the low end of its interval must be there.

    Args:
        run: the study, with its ceilings measured.
    """

    def __init__(self, run: StudyRun) -> None:
        self._run = run
        plan = run.plan
        self._workloads = [
            (params, None if run.ceilings is None else run.ceilings.workload(key))
            for params in workload_baselines(plan.searched, plan.baseline)
            for key in [workload_key(plan.space, params)]
        ]

    def reached(self) -> str | None:
        """Why the search may end: the target rate, or the ceiling of every workload; None while
        there is more to gain."""
        return self._target_reached() or self._ceiling_reached()

    def _target_reached(self) -> str | None:
        target, best = self._run.plan.experiment.budget.target_rate, self._run.best
        if target is None or best is None or best[2] < target:
            return None
        surest = max(self._ranked(), key=_least, default=None)
        if surest is None or _least(surest) < target:
            return None
        return (
            f"trial {surest.number} reaches {surest.samples_per_second or 0.0:,.0f} samples/s, at "
            f"least {_least(surest):,.0f}; the target rate is {target:,.0f}"
        )

    def _ceiling_reached(self) -> str | None:
        within = self._run.plan.experiment.budget.stop_at_ceiling
        if within is None:
            return None
        wanted = 1 - within
        # the figures alone are at hand; the intervals have to be read
        if self._least_share(self._run.incumbents.best) < wanted:
            return None
        surest: dict[str, float] = {}
        for trial in self._ranked():
            key = trial.workload_key
            surest[key] = max(_least(trial), surest.get(key, 0.0))
        space = self._run.plan.space
        share = self._least_share(lambda params: surest.get(workload_key(space, params)))
        if share < wanted:
            return None
        return f"the best reaches at least {share:.0%} of the ceiling, which no loader can exceed"

    def _least_share(self, rate_of: Callable[[Params], float | None]) -> float:
        """The smallest share of its ceiling that a workload's rate is; 0 where one is unknown."""
        shares = []
        for params, ceiling in self._workloads:
            rate = rate_of(params)
            if rate is None or ceiling is None or not ceiling.samples_per_second:
                return 0.0
            shares.append(rate / ceiling.samples_per_second)
        return min(shares, default=0.0)

    def _ranked(self) -> list[TrialRecord]:
        return [t for t in self._run.database.trials(self._run.record.id) if t.rankable]


def _least(trial: TrialRecord) -> float:
    """The low end of a trial's interval."""
    return trial.ci_low or 0.0
