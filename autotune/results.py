"""What a study found, as the objects that every surface shows: PRODUCT names, JSON forms.

    TrialFigures    one trial: configuration, figures, how it was verified or why it failed
    StudySummary    how a study stands: state, progress, time, best trial, baseline
    StudyResult     the same with a Winner, its flags and its gain, for every workload

Units: seconds, GiB, per cent, samples or frames per second.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import Field

from autotune.config import Verification
from autotune.exceptions import InputError
from autotune.search_space import SearchSpace
from autotune.storage import StudyRecord, TrialRecord, VerificationRecord
from autotune.study.ceilings import Ceilings
from autotune.study.noise import NoiseFloor
from autotune.study.verification import verification_runs
from autotune.study.workloads import describe
from autotune.ties import ties
from autotune.trial import Failure, Params, Value

if TYPE_CHECKING:
    from autotune.storage import Database

ALL = 10**9
"""As many of the best as there are."""

DURATION_OF_LAST = 10
"""The time left is told from the mean of so many last measurements."""


class VerifiedGain(Value):
    """A trial against the baseline of its workload, over fresh interleaved blocks."""

    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    """95 % interval of the ratio."""
    significant: bool
    blocks: int
    samples_per_second: float | None
    """Mean of the trial over the blocks."""
    baseline_samples_per_second: float | None
    epoch_seconds: float | None
    baseline_epoch_seconds: float | None


class TrialFigures(Value):
    """One trial. Without a figure (it failed, or runs) ``samples_per_second`` is null."""

    study: str
    number: int
    state: str
    """Optuna's: RUNNING, COMPLETE, FAIL, PRUNED, WAITING."""
    origin: str
    params: Params
    workload: str
    """Values of the workload parameters; figures compare within one value only."""
    samples_per_second: float | None
    ci_low: float | None
    ci_high: float | None
    """95 % interval of ``samples_per_second``, within and between runs."""
    fps: float | None
    decoded_fps: float | None
    unique_frames: float | None
    epoch_seconds: float | None
    time_to_first_batch: float | None
    accelerator_utilization: float | None
    cpu_percent: float | None
    host_memory_gib: float | None
    gpu_memory_gib: float | None
    cache_gib: float | None = None
    """Peak of the batches held ahead by a loader that weighs them; null for others."""
    cache_mean_gib: float | None = None
    sm_percent: float | None
    nvdec_percent: float | None
    slowest_rank: float | None
    failed_share: float | None
    steady: bool | None
    measurements: int
    ratio: float | None = None
    """To the baseline's search figure: not verified, for orientation."""
    tied: bool = False
    """Whether its search figure lies within the noise floor of the best one's that it was ranked
    with: the search cannot tell the two apart. False for the best itself."""
    ceiling_share: float | None = None
    """samples/s over what the consumer takes when it is fed from memory; null where there is no
    such ceiling."""
    stopped_early: bool
    """Beyond doubt slower than the best so far: the figures are an estimate, never ranked."""
    verified: bool
    verification: VerifiedGain | None
    feasible: bool
    violated: list[Any] = Field(default_factory=list)
    failure: Failure | None
    log_tail: str | None = None
    """The end of the log of the run that failed; null for a trial that did not, and where trials
    are ranked."""
    warnings: list[str] = Field(default_factory=list)
    page_cache: str | None = None
    """``warm`` or ``cold``: how the files were when a run began."""
    machine: str | None
    dataset: str | None


class ExtractionFigures(Value):
    """What it took to make frames out of videos, once, before any measurement."""

    frames: int
    source_bytes: int
    """Size of the videos that were extracted."""
    seconds: float


class DataFigures(Value):
    """The data of a study."""

    clips: int
    bytes: int
    """On disk."""
    extraction: ExtractionFigures | None
    """Of a folder of JPEG frames; null for videos."""


class StudySummary(Value):
    """How a study stands."""

    study: str
    state: str
    """running | finished | stopped | interrupted | failed; a study whose driver died is
    interrupted."""
    reason: str
    target: str
    trials_done: int
    trials_total: int | None
    trials_failed: int
    elapsed_seconds: float
    time_left_seconds: float | None
    """Expected, only while it runs."""
    verified: bool
    best: TrialFigures | None
    baseline: TrialFigures | None
    noise: NoiseFloor | None
    """What fresh runs of one configuration differ by; null where it was not measured."""
    ceilings: Ceilings | None
    """What no configuration can exceed, by workload; null where it was not measured."""
    data: DataFigures | None
    """Null where the target reads no clips."""
    warnings: list[str] = Field(default_factory=list)
    """What to know of the search, e.g. a parameter that the program may ignore."""
    created_at: datetime
    updated_at: datetime


class Winner(Value):
    """What a study found for one workload."""

    workload: str
    """The workload parameters that the study varied; empty when it varied none."""
    verified: bool
    """Whether the gain over the baseline is significant in fresh interleaved runs."""
    flags: str
    """The configuration on one line, ready to paste."""
    trial: TrialFigures
    baseline: TrialFigures | None


def trial_figures(
    trial: TrialRecord,
    baseline: TrialRecord | None = None,
    *,
    tied: bool = False,
    ceilings: Ceilings | None = None,
) -> TrialFigures:
    """The object of a trial; ``baseline`` is that of its workload, ``tied`` from `ties`,
    ``ceilings`` those of its study."""
    ratio = None
    if trial.samples_per_second and baseline is not None and baseline.samples_per_second:
        ratio = trial.samples_per_second / baseline.samples_per_second
    values = {
        name: getattr(trial, name)
        for name in TrialFigures.model_fields
        if name in TrialRecord.model_fields and name != "verification"
    }
    return TrialFigures(
        **values,
        workload=trial.workload_key,
        ceiling_share=(
            None
            if ceilings is None
            else ceilings.share(trial.workload_key, trial.samples_per_second)
        ),
        host_memory_gib=trial.rss_gib,
        ratio=ratio,
        tied=tied,
        verification=_verified_gain(trial, trial.verification),
    )


def _verified_gain(
    trial: TrialRecord, verification: VerificationRecord | None
) -> VerifiedGain | None:
    if verification is None:
        return None
    samples = None
    if trial.epoch_seconds is not None and trial.samples_per_second is not None:
        samples = trial.epoch_seconds * trial.samples_per_second

    def epoch(rate: float | None) -> float | None:
        return samples / rate if samples is not None and rate else None

    return VerifiedGain(
        ratio=verification.ratio,
        ratio_low=verification.ratio_low,
        ratio_high=verification.ratio_high,
        significant=verification.significant,
        blocks=verification.blocks,
        samples_per_second=verification.candidate_mean,
        baseline_samples_per_second=verification.baseline_mean,
        epoch_seconds=epoch(verification.candidate_mean),
        baseline_epoch_seconds=epoch(verification.baseline_mean),
    )


def all_trials(database: Database, record: StudyRecord) -> list[TrialFigures]:
    """Every trial of a study, by number, each beside the baseline of its workload, those that
    failed with the end of their log."""
    trials = database.trials(record.id)
    baselines = baselines_by_workload(trials)
    ceilings = Ceilings.of(record)
    tied = {number for group in database.best(record.id, top=ALL) for number in ties(group, record)}
    return [
        trial_figures(
            trial,
            baselines.get(trial.workload_key),
            tied=trial.number in tied,
            ceilings=ceilings,
        ).model_copy(update={"log_tail": _log_tail(database, record, trial)})
        for trial in trials
    ]


def _log_tail(database: Database, record: StudyRecord, trial: TrialRecord) -> str | None:
    if trial.failure is None:
        return None
    runs = database.measurements(record.id, trial.number)
    return next((run.log_tail for run in reversed(runs) if run.failure is not None), None)


def baselines_by_workload(trials: Iterable[TrialRecord]) -> dict[str, TrialRecord]:
    """The baseline of each workload: the first one with a figure, else the first."""
    found: dict[str, TrialRecord] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if trial.origin != "baseline":
            continue
        known = found.get(trial.workload_key)
        if known is None or (known.samples_per_second is None and trial.samples_per_second):
            found[trial.workload_key] = trial
    return found


def best_trial(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The fastest verified trial, else the fastest of those that may be ranked."""
    ranked = [trial for trial in trials if trial.rankable]
    return max(ranked, key=lambda t: (t.verified, t.samples_per_second or 0.0), default=None)


def state_now(database: Database, record: StudyRecord) -> tuple[str, str]:
    """State and reason; ``running`` without a live driver is ``interrupted``."""
    if record.state == "running" and not database.is_driven(record.id):
        return "interrupted", "its driver ended unexpectedly; launch it again to go on"
    return record.state, record.state_reason


def summary(database: Database, record: StudyRecord) -> StudySummary:
    """How a study stands now."""
    trials = database.trials(record.id)
    baselines = baselines_by_workload(trials)
    best = best_trial(trials)
    done = [trial for trial in trials if trial.state in ("COMPLETE", "PRUNED", "FAIL")]
    ceilings = Ceilings.of(record)
    state, reason = state_now(database, record)
    total = (record.experiment.get("budget") or {}).get("trials")
    # Compared within a workload: the baseline that stands beside the best is that of its own.
    beside = baselines.get(best.workload_key) if best is not None else None
    first = beside or next((t for t in trials if t.origin == "baseline"), None)
    return StudySummary(
        study=record.name,
        state=state,
        reason=reason,
        target=record.target,
        trials_done=len(done),
        trials_total=total,
        trials_failed=sum(trial.state == "FAIL" for trial in done),
        elapsed_seconds=record.elapsed_seconds,
        time_left_seconds=_time_left(database, record, len(done)) if state == "running" else None,
        verified=best is not None and best.verified,
        best=None if best is None else trial_figures(best, beside, ceilings=ceilings),
        baseline=None if first is None else trial_figures(first, first, ceilings=ceilings),
        ceilings=ceilings,
        noise=NoiseFloor.of(record),
        data=_data_figures(database, record),
        warnings=record.warnings,
        created_at=record.created_at,
        updated_at=record.updated_at,
    )


def _data_figures(database: Database, record: StudyRecord) -> DataFigures | None:
    facts = next((d.fingerprint for d in database.datasets() if d.hash == record.dataset_hash), {})
    if "clips" not in facts:
        return None
    made = facts.get("extraction")
    return DataFigures(
        clips=facts["clips"],
        bytes=facts["bytes"],
        extraction=made
        and ExtractionFigures(
            frames=made["frames"],
            source_bytes=made["source_bytes"],
            seconds=made["extraction_seconds"],
        ),
    )


def _time_left(database: Database, record: StudyRecord, done: int) -> float | None:
    """Expected seconds until a running study ends, verification included; None if unknown."""
    budget = record.experiment.get("budget") or {}
    verification = record.experiment.get("verification") or {}
    estimates = []
    if (hours := budget.get("hours")) is not None:
        estimates.append(max(0.0, hours * 3600 - record.elapsed_seconds))
    measured = database.measurements(record.id)
    last = [m.wall_seconds for m in measured[-DURATION_OF_LAST:]]
    if (total := budget.get("trials")) is not None and last:
        rerun = verification_runs(Verification.model_validate(verification))
        rerun -= sum(m.role in ("selection", "verification") for m in measured)
        runs = max(0, total - done) + max(0, rerun)
        estimates.append(runs * sum(last) / len(last))
    return min(estimates) if estimates else None


class AcrossWorkloads(Value):
    """The fastest winner beside the configuration in use today, where their work per sample
    differs: no gain of the configuration alone, as a sample is not the same work in both."""

    ratio: float
    workload: str
    baseline_workload: str
    trial: int
    baseline: int


class StudyResult(StudySummary):
    """What a launch prints at its end."""

    flags: str | None
    """Flags of the first winner; null where nothing gave a figure."""
    winners: list[Winner]
    """One for each workload that was measured, the fastest verified one first."""
    across_workloads: AcrossWorkloads | None


def study_result(database: Database, record: StudyRecord) -> StudyResult:
    """The summary of a study with the winner of every workload."""
    found = winners(database, record)
    stands = dict(summary(database, record))
    return StudyResult(
        **stands,
        flags=found[0].flags if found else None,
        winners=found,
        across_workloads=across_workloads(database, record, found),
    )


def across_workloads(
    database: Database, record: StudyRecord, found: Sequence[Winner]
) -> AcrossWorkloads | None:
    """The ratio across workload values; None where the fastest winner has the work of today's."""
    today = next((t for t in database.trials(record.id) if t.params == record.baseline), None)
    if today is None or not today.samples_per_second or not found:
        return None
    fastest = max(found, key=lambda winner: winner.trial.samples_per_second or 0.0)
    if fastest.trial.workload == today.workload_key or not fastest.trial.samples_per_second:
        return None
    space = SearchSpace.from_dict(record.space, f"study {record.name!r}")
    return AcrossWorkloads(
        ratio=fastest.trial.samples_per_second / today.samples_per_second,
        workload=fastest.workload,
        baseline_workload=varied_workload(space, today.params),
        trial=fastest.trial.number,
        baseline=today.number,
    )


def winners(database: Database, record: StudyRecord) -> list[Winner]:
    """The best trial of every workload, verified ones first."""
    space = SearchSpace.from_dict(record.space, f"study {record.name!r}")
    ceilings = Ceilings.of(record)
    found = []
    for group in database.best(record.id):
        trial = group.trials[0]
        found.append(
            Winner(
                workload=varied_workload(space, trial.params),
                verified=trial.verified,
                flags=shlex.join(space.format_flags(trial.params)),
                trial=trial_figures(trial, group.baseline, ceilings=ceilings),
                baseline=(
                    None
                    if group.baseline is None
                    else trial_figures(group.baseline, group.baseline, ceilings=ceilings)
                ),
            )
        )
    return found


def varied_workload(space: SearchSpace, params: Params) -> str:
    """``subclip_duration=0.5`` for the workload parameters that a study searched."""
    varied = [name for name in space.searched if space.parameters[name].workload]
    return describe(space.workload_key(params), varied)


def export_study(
    database: Database,
    record: StudyRecord,
    format: str,
    *,
    trial: int | None = None,
    unverified: bool = False,
) -> str:
    """A study's winner, or one of its trials, as flags, json, yaml, env or argfile.

    Raises:
        InputError: for an unknown format or trial, a study without a figure, or what is not
            verified (unless allowed).
    """
    from autotune.export import ExportFormat, export, provenance

    accepted = get_args(ExportFormat)
    if format not in accepted:
        raise InputError(f"format: {format!r} is not accepted. Accepted: {', '.join(accepted)}")
    if trial is not None:
        chosen = database.trial(record.id, trial)
    else:
        groups = database.best(record.id)
        if not groups:
            raise InputError(
                f"study {record.name!r} has no trial with a figure; `autotune trials` says why"
            )
        chosen = groups[0].trials[0]
    space = SearchSpace.from_dict(record.space, f"study {record.name!r}")
    return export(
        chosen,
        record,
        space,
        cast("ExportFormat", format),
        provenance(database, record, chosen),
        unverified=unverified,
    )
