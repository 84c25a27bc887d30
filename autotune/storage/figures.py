"""A trial's figures from its measurements. Optuna's value is never read."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select

from autotune.repeats import NOT_STEADY, warning, widened
from autotune.stats import between_run_sd, published_interval, usual_within
from autotune.storage.models import MeasurementRow, StudyRow, TrialRow
from autotune.storage.records import TrialRecord, VerificationRecord
from autotune.storage.results import CACHE, failure_of
from autotune.trial import Contamination

SEARCH_ROLES = frozenset({"search", "baseline"})
"""Runs whose mean is a trial's figure; those made to verify it are kept apart."""

NO_LOADER_ROLES = frozenset({"ceiling"})
"""Runs that measured no loader: they say nothing of a configuration."""

_MEANS = (
    "samples_per_second",
    "fps",
    "decoded_fps",
    "unique_frames",
    "time_to_first_batch",
    "accelerator_utilization",
    "cpu_percent",
    "sm_percent",
    "nvdec_percent",
    "slowest_rank",
    "within_low",
    "within_high",
    "cache_mean_gib",
)
_PEAKS = ("rss_gib", "gpu_memory_gib", "cache_gib")

# Without the documents: `trials` of a long study must not read every log tail.
COLUMNS = (
    MeasurementRow.trial_number,
    MeasurementRow.role,
    MeasurementRow.arm,
    MeasurementRow.machine_hash,
    MeasurementRow.dataset_hash,
    MeasurementRow.steady,
    MeasurementRow.samples,
    MeasurementRow.failed,
    MeasurementRow.stopped_early,
    MeasurementRow.contaminated,
    MeasurementRow.contamination,
    MeasurementRow.page_cache,
    MeasurementRow.warnings,
    *(getattr(MeasurementRow, name) for name in (*_MEANS, *_PEAKS) if name not in CACHE),
    *(MeasurementRow.resources[name].as_float().label(name) for name in CACHE),
)

# What `between_runs` needs of them: a study asks it after every run.
REPEAT_COLUMNS = (
    MeasurementRow.trial_number,
    MeasurementRow.arm,
    MeasurementRow.machine_hash,
    MeasurementRow.dataset_hash,
    MeasurementRow.stopped_early,
    MeasurementRow.contaminated,
    MeasurementRow.samples_per_second,
    MeasurementRow.within_low,
    MeasurementRow.within_high,
)

Run = Row[Any]
Place = tuple[str | None, str | None]
"""Hashes of the machine and the data that a figure belongs to."""

Spread = tuple[float, float, float]
"""Relative standard deviation between fresh runs, its degrees of freedom, and the usual relative
half-width within the runs it comes from: the last arguments of `stats.published_interval`."""


def finished_runs(study_id: int, columns: Iterable[Any] = COLUMNS) -> Any:
    """The statement that reads ``columns`` of the runs of a study that gave a figure."""
    return (
        select(*columns)
        .where(
            MeasurementRow.study_id == study_id,
            MeasurementRow.state == "finished",
            MeasurementRow.samples_per_second.is_not(None),
            MeasurementRow.role.not_in(NO_LOADER_ROLES),
            MeasurementRow.superseded.is_(False),
        )
        .order_by(MeasurementRow.id)
    )


def between_runs(
    params: Mapping[int, Mapping[str, Any]],
    runs: Iterable[Run],
    verifications: Iterable[VerificationRecord],
) -> dict[Place, Spread]:
    """What fresh runs of one configuration differ by, by place.

    Every run counts, whatever it was made for: what matters is that one configuration was
    measured more than once on one machine and data set. The baseline arm of a verification ran
    the baseline's configuration, not the trial's.

    Args:
        params: of each trial, by its number.
        runs: with `REPEAT_COLUMNS`.
    """
    configurations = {number: _canonical(values) for number, values in params.items()}
    baselines = {v.trial_number: _canonical(v.baseline_params) for v in verifications}
    groups: dict[Place, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        place = groups[run.machine_hash, run.dataset_hash]  # there even if all of it is left out
        if run.stopped_early or run.contaminated:
            continue  # an estimate, not a whole run; or what others did differs between them
        known = baselines if run.arm == "baseline" else configurations
        configuration = known.get(run.trial_number, f"{run.trial_number}:{run.arm}")
        place[configuration].append(run)
    return {
        place: spread_of([g for g in group.values() if len(g) > 1])
        for place, group in groups.items()
    }


def spread_of(repeats: Sequence[Sequence[Run]]) -> Spread:
    """The spread of runs, one sequence a configuration; the prior without any."""
    sd, dof = between_run_sd([[run.samples_per_second for run in group] for group in repeats])
    halves = [
        (run.within_high - run.within_low) / 2 / run.samples_per_second
        for group in repeats
        for run in group
        if run.within_high is not None and run.within_low is not None and run.samples_per_second > 0
    ]
    return sd, dof, usual_within(halves)


def _canonical(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def _mean(runs: Sequence[Run], name: str) -> float | None:
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    return math.fsum(values) / len(values) if values else None


def _half_width(run: Run) -> float:
    """Half of a run's own interval, wider where others took a part of the machine."""
    if run.within_low is None or run.within_high is None:  # not finite, so not stored
        return math.inf
    half: float = (run.within_high - run.within_low) / 2
    if not run.contaminated:
        return half
    return widened(half, run.samples_per_second, run.contamination["lost"])


def _page_cache(runs: Sequence[Run]) -> str | None:
    states = {run.page_cache for run in runs if run.page_cache is not None}
    return states.pop() if len(states) == 1 else ("mixed" if states else None)


def _told(runs: Sequence[Run]) -> list[str]:
    """What the runs themselves warn of, each thing once."""
    return list(dict.fromkeys(text for run in runs for text in run.warnings or []))


def _unsteady(runs: Sequence[Run]) -> list[str]:
    """That a run did not become steady; of one that was stopped early nobody expects it."""
    return [NOT_STEADY] if any(r.steady is False and not r.stopped_early for r in runs) else []


def _disturbances(runs: Sequence[Run]) -> list[str]:
    found = [
        warning(Contamination.model_validate(run.contamination)) for run in runs if run.contaminated
    ]
    return [text for text in found if text is not None]


def _one_place(runs: Sequence[Run]) -> tuple[Place, list[Run]]:
    """The place most of a trial's runs were made at, and those runs: places are never mixed."""
    if not runs:
        return (None, None), []
    places = Counter((run.machine_hash, run.dataset_hash) for run in runs)
    place = places.most_common(1)[0][0]
    return place, [run for run in runs if (run.machine_hash, run.dataset_hash) == place]


def trial_record(
    study: StudyRow,
    trial: TrialRow,
    runs: Sequence[Run],
    between: Mapping[Place, Spread],
    verification: VerificationRecord | None,
) -> TrialRecord:
    """A trial with its figures; ``runs`` are its finished runs of the search.

    A trial that failed has no figure, whatever an attempt before gave.
    """
    failed = trial.failure_kind is not None or trial.penalty or trial.state == "FAIL"
    place, used = _one_place([] if failed else runs)
    figures: dict[str, Any] = {name: _mean(used, name) for name in _MEANS}
    for name in _PEAKS:
        figures[name] = max(
            (value for run in used if (value := getattr(run, name)) is not None), default=None
        )
    rate = figures["samples_per_second"]
    if rate is not None:
        low, high = published_interval(
            [run.samples_per_second for run in used],
            [_half_width(run) for run in used],
            # none where every run at that place was disturbed
            *between.get(place, spread_of([])),
        )
        figures["ci_low"], figures["ci_high"] = low, high if math.isfinite(high) else None
        if study.dataset_samples and rate > 0:
            figures["epoch_seconds"] = study.dataset_samples / rate
        handled = sum((run.samples or 0) + (run.failed or 0) for run in used)
        figures["failed_share"] = (
            sum(run.failed or 0 for run in used) / handled if handled else None
        )
        figures["steady"] = all(run.steady is not False for run in used)
    return TrialRecord(
        study=study.name,
        number=trial.number,
        state=trial.state,
        origin=trial.origin,
        params=trial.params,
        workload_key=trial.workload_key,
        measurements=len(used),
        verified=bool(
            verification is not None and verification.verified and study.source == "measured"
        ),
        verification=verification,
        feasible=not trial.violated,
        violated=trial.violated,
        penalty=trial.penalty,
        stopped_early=trial.stopped_early,
        failure=failure_of(trial.failure_kind, trial.failure_cause, trial.failure_advice),
        page_cache=_page_cache(used),
        warnings=[*trial.warnings, *_told(used), *_unsteady(used), *_disturbances(used)],
        machine=place[0],
        dataset=place[1],
        created_at=trial.created_at,
        finished_at=trial.finished_at,
        **figures,
    )
