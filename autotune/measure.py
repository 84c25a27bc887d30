"""One configuration, measured as a trial would be: the use case behind ``autotune measure``."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.config import Experiment, experiment_from, resolve
from autotune.executors.base import Executor, Job
from autotune.executors.local import LocalExecutor
from autotune.repeats import half_width, warning
from autotune.stats import PRIOR_BETWEEN_DOF, PRIOR_BETWEEN_SD, PRIOR_WITHIN, published_interval
from autotune.study.nodes import probe_nodes
from autotune.study.observer import NO_STUDY, StudyObserver, StudyProgress
from autotune.study.run import StopSignal, specification
from autotune.trial import (
    Contamination,
    Delivered,
    Event,
    Failure,
    Growing,
    GrowthEvent,
    MemoryTrend,
    NodeInfo,
    Params,
    TrialResult,
    TrialSpec,
    Value,
)

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class MeasureOutcome:
    """What one measurement gave."""

    target: str
    params: Params
    result: TrialResult
    node: NodeInfo
    growing: Sequence[Growing] = ()
    """What grew in its processes, where that was asked for."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the rate. One run says nothing of what differs between runs, so
        `stats.PRIOR_BETWEEN_SD` stands in for it."""
        measured = self.result.measurement
        if measured is None:
            return None
        half = half_width(measured)
        return published_interval(
            [measured.samples_per_second],
            [half],
            PRIOR_BETWEEN_SD,
            PRIOR_BETWEEN_DOF,
            PRIOR_WITHIN,
        )


class MeasuredFigures(Value):
    """The JSON object of a single measurement: a trial's names, without number and state."""

    target: str
    params: Params
    samples_per_second: float | None
    ci_low: float | None
    ci_high: float | None
    fps: float | None
    decoded_fps: float | None
    verified: bool = False
    """Always false: nothing was compared."""
    unique_frames: float | None
    epoch_seconds: float | None
    time_to_first_batch: float | None
    accelerator_utilization: float | None
    cpu_percent: float | None
    host_memory_gib: float | None
    gpu_memory_gib: float | None
    cache_gib: float | None
    """Peak of the batches held ahead by a loader that weighs them; null for others."""
    cache_mean_gib: float | None
    memory: MemoryTrend | None
    """Whether memory grew while it was measured."""
    growing: list[Growing]
    """With ``--locate``: what grew in the processes."""
    sm_percent: float | None
    nvdec_percent: float | None
    slowest_rank: float | None
    samples: int | None
    failed: int | None
    failed_clips: list[dict[str, str]]
    steady: bool | None
    warmup_seconds: float | None
    seconds: float | None
    """Length of the steady part."""
    stages: list[dict[str, Any]]
    versions: dict[str, str]
    contamination: Contamination | None
    """What others took while it was measured; null where that was not looked for."""
    page_cache: str | None
    """``warm`` or ``cold``: how its files were when it began."""
    delivered: Delivered | None
    """What the batches were, read from themselves."""
    warnings: list[str]
    failure: Failure | None
    log_tail: str
    """What the worker printed, where it failed."""
    wall_seconds: float


def measure_experiment(
    target: str,
    flags: Sequence[str] = (),
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    base: Mapping[str, Any] | None = None,
    where: str | None = None,
) -> Experiment:
    """The experiment of a single measurement: its baseline is the configuration to measure.

    Args:
        flags: words of the target's command line; parameters not given are at their defaults.
        overrides: ``key.path=value`` of an experiment, e.g. ``target.num_frames=8``.
        values: dotted key -> value, for options that stand for a key.
        base: what an experiment file would hold besides; ``overrides`` and ``values`` go first.
        where: what messages begin with; default: ``measure TARGET``.

    Raises:
        InputError: for anything that an experiment does not accept.
    """
    given = dict(values or {})
    if flags:
        given["baseline"] = shlex.join(flags)
    document = {**(base or {}), "target": {"name": target}}
    return experiment_from(document, overrides, given, where=where or f"measure {target}")


def measure(
    experiment: Experiment,
    *,
    observer: StudyObserver | None = None,
    signal: StopSignal | None = None,
    locate_seconds: float | None = None,
) -> MeasureOutcome:
    """Measure the baseline of ``experiment`` once, in fresh processes on this machine.

    Nothing is stored. A measurement that fails is an outcome, not an exception.

    Args:
        locate_seconds: time between two looks for what grows in the processes; None: no look.

    Raises:
        InputError: if the configuration or the data are wrong.
        UnsupportedError: if this machine lacks what the configuration needs.
    """
    observer = observer or StudyObserver()
    signal = signal or StopSignal()
    plan = resolve(experiment)
    study = uuid.uuid4().hex
    growing: dict[int, list[Growing]] = {}

    def seen(uuid: str, event: Event) -> None:
        if isinstance(event, GrowthEvent):
            growing[event.rank] = event.growing
        observer.measurement_event(uuid, event)

    executor = LocalExecutor(on_event=seen)
    try:
        node = probe_nodes(executor, plan, study)[0]
        for text in node.warnings:
            observer.note(text)
        spec = specification(plan, study, plan.baseline, node)
        spec = spec.model_copy(update={"locate_seconds": locate_seconds})
        result = _run(executor, spec, node, observer, signal)
    finally:
        executor.close()
    found = [of_kind for told in growing.values() for of_kind in told]
    return MeasureOutcome(experiment.target.name, plan.baseline, result, node, found)


def _run(
    executor: Executor,
    spec: TrialSpec,
    node: NodeInfo,
    observer: StudyObserver,
    signal: StopSignal,
) -> TrialResult:
    progress = once_progress("measure", node)
    observer.study_started("measure", False, [node], [], "none")
    observer.measurement_started(spec.uuid, "measurement", spec.params, progress)
    return wait_for(executor.submit(spec), lambda: signal.requested)


def wait_for(job: Job, must_stop: Callable[[], bool]) -> TrialResult:
    """Wait for a measurement, and stop it once ``must_stop`` says so."""
    while True:
        if must_stop():
            job.stop()
        try:
            return job.result(timeout=POLL_SECONDS)
        except TimeoutError:
            continue


def once_progress(name: str, node: NodeInfo, elapsed: float = 0.0) -> StudyProgress:
    """What there is to tell of the progress where no study is."""
    return StudyProgress(
        study=name,
        trials_done=0,
        trials_total=1,
        elapsed=elapsed,
        time_left=None,
        best_number=None,
        best_params=None,
        best_rate=None,
        baseline_rate=None,
        num_samples=node.num_samples,
        phase=NO_STUDY,
    )


def measured_figures(outcome: MeasureOutcome) -> MeasuredFigures:
    """The JSON object of an outcome; without a figure its ``failure`` says why."""
    result, measured, interval = outcome.result, outcome.result.measurement, outcome.interval
    low, high = interval if interval is not None else (None, None)
    failed = result.state != "finished" or measured is None
    common: dict[str, Any] = (
        {
            name: getattr(measured, name, None)
            for name in MeasuredFigures.model_fields
            if name in type(measured).model_fields
        }
        if measured is not None
        else {}
    )
    resources = measured.resources if measured is not None else None
    rate = measured.samples_per_second if measured is not None else 0.0
    disturbed = warning(measured.contamination) if measured is not None else None
    values = dict.fromkeys(MeasuredFigures.model_fields) | common
    return MeasuredFigures.model_validate(
        values
        | {
            "target": outcome.target,
            "params": outcome.params,
            "ci_low": low,
            "ci_high": high,
            "verified": False,
            "epoch_seconds": (outcome.node.num_samples / rate or None) if rate > 0 else None,
            "cpu_percent": resources.cpu_percent if resources else None,
            "host_memory_gib": resources.rss_gib if resources else None,
            "gpu_memory_gib": resources.gpu_memory_gib if resources else None,
            "cache_gib": resources.cache_gib if resources else None,
            "cache_mean_gib": resources.cache_mean_gib if resources else None,
            "memory": resources.memory if resources else None,
            "growing": list(outcome.growing),
            "sm_percent": resources.sm_percent if resources else None,
            "nvdec_percent": resources.nvdec_percent if resources else None,
            "failed_clips": [c.model_dump() for c in measured.failed_clips] if measured else [],
            "stages": [s.model_dump() for s in measured.stages] if measured else [],
            "versions": measured.versions if measured else {},
            "warnings": [
                *(measured.warnings if measured else []),
                *([disturbed] if disturbed else []),
            ],
            "failure": result.failure,
            "log_tail": result.log_tail if failed else "",
            "wall_seconds": result.wall_seconds,
        }
    )
