"""Checks a winner against the baseline in fresh, interleaved runs, before anything is claimed.

    finalists --selection blocks, the worse half goes--> winner --verification blocks--> interval

The winner is chosen first; its interval comes only from blocks made *after* that. Choosing the
best of several and quoting it from the same runs would overstate it (the winner's curse). No
choice ever looks at a verification block, so those of an earlier launch count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from autotune.stats import RatioEstimate, rates_tie
from autotune.study.blocks import Block, Blocks, Broken, least_disturbed
from autotune.study.selection import Candidate, select, selection_runs
from autotune.study.workloads import Workload, baseline_for, describe
from autotune.trial import TrialResult

if TYPE_CHECKING:
    from autotune.config import Verification
    from autotune.storage import MeasurementRecord, TrialRecord
    from autotune.study.run import Ending, StudyRun


def verification_runs(settings: Verification) -> int:
    """The most measurements that the verification of one workload takes, repeats of failed ones
    apart: choosing among the finalists, then two runs for each of the blocks allowed."""
    if settings.finalists == 0:
        return 0
    return selection_runs(settings.finalists) + 2 * settings.blocks


def verify_study(run: StudyRun) -> Ending:
    """Verify the best trial of every workload, the fastest workload first.

    Returns:
        the state the study ends in, and why.
    """
    settings = run.plan.experiment.verification
    if run.best is None:
        return "failed", _nothing_to_verify(run)
    if settings.finalists == 0:
        return "finished", "not verified: verification.finalists is 0"
    run.searching = False
    groups = _finalists(run, settings.finalists)
    lines = []
    for index, (workload, finalists) in enumerate(groups):
        run.verification_left = verification_runs(settings) * (len(groups) - index)
        line = _verify_workload(run, finalists)
        if (ended := run.asked_to_end()) is not None:
            return ended
        lines.append(f"{workload}: {line}" if workload else line)
    return "finished", "; ".join(lines)


def _nothing_to_verify(run: StudyRun) -> str:
    measured = [t for t in run.database.trials(run.record.id) if t.samples_per_second is not None]
    if not measured:
        return "no trial gave a figure; `autotune trials` names the causes"
    broken = sorted({text for trial in measured for text in trial.violated})
    return f"no trial met the constraints: {', '.join(broken)}; relax them or measure more"


def _finalists(run: StudyRun, count: int) -> list[tuple[str, list[Candidate]]]:
    """By workload, that of the best trial first: what is varied in it, and the best trials that
    may be faster than its baseline, best first; none where no trial may be."""
    groups: dict[Workload, list[TrialRecord]] = defaultdict(list)
    for trial in run.database.trials(run.record.id):
        if trial.rankable:
            groups[run.plan.space.workload_key(trial.params)].append(trial)
    varied = [n for n in run.plan.searched.searched if run.plan.space.parameters[n].workload]
    for trials in groups.values():
        trials.sort(key=_rate, reverse=True)
    ranked = sorted(groups.items(), key=lambda group: _rate(group[1][0]), reverse=True)
    return [
        (
            describe(workload, varied),
            [
                Candidate(
                    number=trial.number,
                    params=trial.params,
                    rate=_rate(trial),
                    baseline=baseline_for(run.plan.space, run.plan.baseline, trial.params),
                    measured_at=trial.finished_at,
                    workload=describe(workload, varied),
                )
                for trial in _within_reach(run, trials)[:count]
            ],
        )
        for workload, trials in ranked
    ]


def _within_reach(run: StudyRun, trials: list[TrialRecord]) -> list[TrialRecord]:
    """The trials of one workload that are not beyond doubt slower than its baseline.

    The baseline does not compete: all are measured against it. A single run of it that was lucky
    must not hide every gain, so what ties with it by the noise floor is within reach.
    """
    canonical = run.plan.space.canonical
    others, baseline_rate = [], 0.0
    for trial in trials:
        baseline = baseline_for(run.plan.space, run.plan.baseline, trial.params)
        if canonical(trial.params) == canonical(baseline):
            baseline_rate = _rate(trial)
        else:
            others.append(trial)
    floor = run.noise_floor
    return [
        trial
        for trial in others
        if _rate(trial) >= baseline_rate or rates_tie(_rate(trial), baseline_rate, floor)
    ]


def _rate(trial: TrialRecord) -> float:
    return trial.samples_per_second or 0.0


def _verify_workload(run: StudyRun, finalists: list[Candidate]) -> str:
    """Choose and verify the winner of one workload; returns what came of it."""
    if not finalists:
        return "no configuration was faster than the baseline, nor within the noise of it"
    if _judged_before(run, finalists):
        return "verified before"
    winner = select(run, finalists)
    if winner is None:
        return "the finalists failed when they were measured again"
    before = {v.trial_number: v for v in run.database.verifications(run.record.id)}
    if winner.number in before:
        return f"trial {winner.number} was verified before"
    return _verify(run, winner)


def _judged_before(run: StudyRun, finalists: list[Candidate]) -> bool:
    """Whether one of these finalists was verified when all of them had been measured."""
    measured = [f.measured_at for f in finalists if f.measured_at is not None]
    numbers = {f.number for f in finalists}
    return any(
        v.trial_number in numbers and all(v.created_at >= moment for moment in measured)
        for v in run.database.verifications(run.record.id)
    )


def _verify(run: StudyRun, winner: Candidate) -> str:
    """Winner and baseline in interleaved fresh blocks; records and tells the ratio."""
    settings = run.plan.experiment.verification
    floor = run.noise.floor if run.noise is not None else 0.0
    recorded = _recorded_runs(run, winner)
    repeats = run.plan.experiment.measurement.repeats
    done, set_aside = complete_blocks(recorded, repeats)
    blocks = Blocks(
        arms=("candidate", "baseline"),
        seed=f"{run.plan.experiment.seed}:{winner.number}",
        first=settings.first_blocks,
        most=settings.blocks,
        half_width=max(settings.half_width, floor),
        done=done,
        repeats=repeats,
        set_aside=set_aside,
    )
    configurations = {"candidate": winner.params, "baseline": winner.baseline}

    def measure(arm: str, block: int) -> TrialResult | None:
        if run.asked_to_end() is not None:
            return None
        run.verification_left = max(0, 2 * (blocks.needed - block))
        label = f"block {block + 1}/{max(blocks.needed, block + 1)} {arm}"
        where = {"block": block, "arm": arm}
        return run.measure_once(configurations[arm], winner.number, label, "verification", **where)

    failed = Counter(m.block or 0 for m in recorded if m.state == "failed")
    broken = blocks.measure(measure, lambda: run.clock.fits(2), failed)
    if run.asked_to_end() is not None:
        return "not verified: interrupted"  # the next launch goes on with these blocks
    if broken is not None:
        return _failed(run, winner, blocks, broken)
    outcome = blocks.ratio()
    if outcome is None or len(blocks.rates) < blocks.first:
        return (
            f"trial {winner.number} is not verified: the time budget ended after "
            f"{len(blocks.rates)} of at least {blocks.first} blocks"
        )
    _record(run, winner, blocks, outcome)
    short = (
        "" if blocks.complete else f", cut short by the time budget after {outcome.blocks} blocks"
    )
    return f"trial {winner.number} {verdict(outcome)}{short}{_disturbances(blocks)}"


def verdict(outcome: RatioEstimate) -> str:
    """``verified: 1.43x (1.40 to 1.46)``, or ``no significant gain: ...``."""
    text = f"{outcome.ratio:.2f}x ({outcome.low:.2f} to {outcome.high:.2f})"
    return f"verified: {text}" if outcome.low > 1 else f"no significant gain: {text}"


def _disturbances(blocks: Blocks) -> str:
    """What other programs did to the blocks, to add to what is said of the ratio."""
    text = ""
    if blocks.set_aside:
        text += f", {_counted(blocks.set_aside)} set aside as other programs disturbed them"
    if blocks.disturbed:
        text += f", {_counted(blocks.disturbed)} disturbed each time, so the interval is wider"
    return text


def _counted(blocks: int) -> str:
    return f"{blocks} block{'' if blocks == 1 else 's'}"


def _record(
    run: StudyRun, winner: Candidate, blocks: Blocks, outcome: RatioEstimate | None
) -> None:
    run.database.add_verification(
        run.record.id,
        trial_number=winner.number,
        workload=winner.workload,
        outcome=outcome,
        candidate_rates=blocks.of_first,
        baseline_rates=blocks.of_second,
        baseline_params=winner.baseline,
        details={
            "half_width": blocks.half_width,
            "first_blocks": blocks.first,
            "most_blocks": blocks.most,
            "set_aside": blocks.set_aside,
            "disturbed_blocks": blocks.disturbed,
        },
    )


def _failed(run: StudyRun, winner: Candidate, blocks: Blocks, broken: Broken) -> str:
    cause = f"{broken.failure.kind}: {broken.failure.cause}"
    if broken.arm == "baseline" or broken.failure.kind == "infrastructure":
        which = "the baseline" if broken.arm == "baseline" else f"trial {winner.number}"
        return (
            f"trial {winner.number} is not verified: {which} failed when measured again ({cause})"
        )
    _record(run, winner, blocks, None)
    return f"trial {winner.number} failed when it was measured again ({cause})"


# --------------------------------------------------------------------------- earlier launches


def _recorded_runs(run: StudyRun, winner: Candidate) -> list[MeasurementRecord]:
    """The verification runs of this winner that earlier launches made."""
    return [
        measured
        for measured in run.database.measurements(run.record.id, winner.number)
        if measured.role == "verification" and not measured.superseded
    ]


def complete_blocks(runs: Iterable[MeasurementRecord], repeats: int) -> tuple[list[Block], int]:
    """The blocks that are complete, from the first one on, with the rates of (candidate, baseline);
    and how many attempts at them were set aside.

    ``runs`` are in the order they were made. A block is two finished runs, one of each arm, with
    nothing in between: a failed run, or a driver that ended after the first arm, makes it begin
    anew. A disturbed one is complete once it was measured again ``repeats`` times; the least
    disturbed attempt counts.
    """
    attempts: dict[int, list[Block]] = defaultdict(list)
    begun: dict[str, MeasurementRecord] = {}
    number = -1
    for run in runs:
        if run.block is None or run.arm is None:
            continue
        if run.block != number or run.arm in begun or run.state != "finished":
            begun = {}
        number = run.block
        if run.state != "finished" or not run.samples_per_second:
            continue
        begun[run.arm] = run
        if len(begun) == 2:
            attempts[number].append(_block(begun))
            begun = {}
    found: list[Block] = []
    set_aside = 0
    while made := attempts.get(len(found)):
        counts = least_disturbed(made)
        if counts.disturbed and len(made) <= repeats:
            break
        found.append(counts)
        set_aside += len(made) - 1
    return found, set_aside


def _block(runs: Mapping[str, MeasurementRecord]) -> Block:
    rates = [runs[arm].samples_per_second or 0.0 for arm in ("candidate", "baseline")]
    lost = [float((m.contamination or {})["lost"]) for m in runs.values() if m.contaminated]
    return Block((rates[0], rates[1]), tuple(lost))
