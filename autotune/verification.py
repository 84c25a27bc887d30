"""Checks a winner against the baseline in fresh, interleaved runs, before anything is claimed.

The winner is chosen first; its interval comes only from runs made *after* that. Choosing the
best of several and quoting it from the same runs would overstate it (the winner's curse).
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.stats import RatioEstimate, ratio_interval
from autotune.trial import Params
from autotune.workloads import Workload, baseline_for, describe

if TYPE_CHECKING:
    from autotune.config import Verification
    from autotune.storage import TrialRecord
    from autotune.study import State, StudyRun

SELECTION_RUNS = 2
"""Fresh runs a finalist gets before the winner is chosen among several."""


@dataclass(frozen=True)
class Candidate:
    """A trial that may be the winner of its workload, and the baseline it has to beat."""

    number: int
    params: Params
    rate: float
    baseline: Params
    workload: str


def verification_runs(settings: Verification) -> int:
    """How many measurements the verification of one workload takes."""
    if settings.finalists == 0:
        return 0
    selection = 0 if settings.finalists == 1 else SELECTION_RUNS * settings.finalists
    return 2 * settings.blocks + selection


def verify_study(run: StudyRun) -> tuple[State, str]:
    """Verify the best trial of every workload, the fastest workload first.

    Returns:
        the state the study ends in, and why.
    """
    verification = run.plan.experiment.verification
    if run.best is None:
        return "failed", _nothing_to_verify(run)
    if verification.finalists == 0:
        return "finished", "not verified: verification.finalists is 0"
    done = {(v.trial_number, v.workload) for v in run.database.verifications(run.record.id)}
    lines = []
    for finalists in _finalists(run, verification.finalists):
        winner = finalists[0]
        prefix = f"{winner.workload}: " if winner.workload else ""
        if run.plan.space.canonical(winner.params) == run.plan.space.canonical(winner.baseline):
            lines.append(f"{prefix}no configuration was faster than the baseline")
            continue
        if any((f.number, f.workload) in done for f in finalists):
            lines.append(f"{prefix}verified before")
            continue
        chosen = winner if len(finalists) == 1 else _select(run, finalists)
        outcome = _verify(run, chosen) if chosen is not None else None
        if (ended := run.asked_to_end()) is not None:
            return ended
        if chosen is None or outcome is None:
            lines.append(f"{prefix}the winner failed when it was measured again")
            continue
        lines.append(f"{prefix}trial {chosen.number} {_verdict(outcome)}")
    return "finished", "; ".join(lines)


def _nothing_to_verify(run: StudyRun) -> str:
    measured = [t for t in run.database.trials(run.record.id) if t.samples_per_second is not None]
    if not measured:
        return "no trial gave a figure; `autotune trials` names the causes"
    broken = sorted({text for trial in measured for text in trial.violated})
    return f"no trial met the constraints: {', '.join(broken)}; relax them or measure more"


def _verdict(outcome: RatioEstimate) -> str:
    text = f"{outcome.ratio:.2f}x ({outcome.low:.2f} to {outcome.high:.2f})"
    return f"verified: {text}" if outcome.low > 1 else f"no significant gain: {text}"


def _finalists(run: StudyRun, count: int) -> list[list[Candidate]]:
    """The best trials of each workload, best first; the workload of the best trial first."""
    groups: dict[Workload, list[TrialRecord]] = defaultdict(list)
    for trial in run.database.trials(run.record.id):
        if trial.rankable:
            groups[run.plan.space.workload_key(trial.params)].append(trial)
    varied = [n for n in run.plan.searched.searched if run.plan.space.parameters[n].workload]
    found = []
    for workload, trials in groups.items():
        trials.sort(key=lambda t: -(t.samples_per_second or 0.0))
        found.append(
            [
                Candidate(
                    trial.number,
                    trial.params,
                    trial.samples_per_second or 0.0,
                    baseline_for(run.plan.space, run.plan.baseline, trial.params),
                    describe(workload, varied),
                )
                for trial in trials[:count]
            ]
        )
    return sorted(found, key=lambda group: -group[0].rate)


def _select(run: StudyRun, finalists: list[Candidate]) -> Candidate | None:
    """The finalist with the best fresh runs. These runs are not part of any claim."""
    order = random.Random(f"{run.plan.experiment.seed}:selection")
    rates: dict[int, list[float]] = defaultdict(list)
    for block in range(SELECTION_RUNS):
        shuffled = list(finalists)
        order.shuffle(shuffled)
        for candidate in shuffled:
            if run.asked_to_end() is not None:
                return None
            label = f"selection {block + 1}/{SELECTION_RUNS} of trial {candidate.number}"
            result = run.measure(
                candidate.params, candidate.number, label, "selection", block=block
            )
            if result.measurement is not None:
                rates[candidate.number].append(result.measurement.samples_per_second)
    measured = [c for c in finalists if len(rates[c.number]) == SELECTION_RUNS]
    if not measured:
        return None
    return max(measured, key=lambda c: math.fsum(rates[c.number]))


def _verify(run: StudyRun, candidate: Candidate) -> RatioEstimate | None:
    """Candidate and baseline in interleaved fresh blocks, in random order within each.

    Returns:
        the ratio with its interval; None if it could not be measured.
    """
    blocks = run.plan.experiment.verification.blocks
    order = random.Random(f"{run.plan.experiment.seed}:{candidate.number}")
    rates: dict[str, list[float]] = {"candidate": [], "baseline": []}
    configurations = {"candidate": candidate.params, "baseline": candidate.baseline}
    for block in range(blocks):
        arms = ["candidate", "baseline"]
        order.shuffle(arms)
        pair: dict[str, float] = {}
        for arm in arms:
            if run.asked_to_end() is not None:
                return None
            result = run.measure(
                configurations[arm],
                candidate.number,
                f"block {block + 1}/{blocks} {arm}",
                "verification",
                block=block,
                arm=arm,
            )
            if result.measurement is not None:
                pair[arm] = result.measurement.samples_per_second
        if len(pair) == 2:
            for arm, rate in pair.items():
                rates[arm].append(rate)
    if len(rates["candidate"]) < max(2, blocks - 1):
        return None
    outcome = ratio_interval(rates["candidate"], rates["baseline"])
    run.database.add_verification(
        run.record.id,
        trial_number=candidate.number,
        workload=candidate.workload,
        outcome=outcome,
        candidate_rates=rates["candidate"],
        baseline_rates=rates["baseline"],
        baseline_params=candidate.baseline,
    )
    return outcome
