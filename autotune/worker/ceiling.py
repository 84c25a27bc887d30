"""What no loader can exceed: the consumer fed from memory, and each stage fed alone.

ceiling   the loader makes a few batches and is closed; the consumer gets them again and again
stages    the target runs each of its stages on its own (`Target.stages_alone`)
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import time
from collections.abc import Iterator
from typing import Any

from autotune.exceptions import InputError, UnsupportedError
from autotune.system import processes
from autotune.targets.base import Batch, BuildContext, Loader, Target
from autotune.trial import (
    BuiltEvent,
    FailedClip,
    FinishedEvent,
    FirstBatchEvent,
    Measurement,
    Params,
    StageCeiling,
    StageStats,
)
from autotune.worker.channel import EventWriter

KEPT_BATCHES = 4
"""Different batches that the consumer is fed: with one alone it would find it in its caches."""


class MemoryLoader(Loader):
    """Delivers a few batches of another loader over and over, with nothing behind them.

    Garbage collection is off until it is closed, so that the ceiling is one for loaders of
    either ``gc_policy``.

    Args:
        loader: takes `KEPT_BATCHES` batches from it and closes it.
    """

    def __init__(self, loader: Loader) -> None:
        self._gc_was_on = gc.isenabled()
        try:
            self._readback = loader.readback()
            self._versions = loader.versions()
            self._batches = [kept(batch) for batch in itertools.islice(loader, KEPT_BATCHES)]
        finally:
            loader.close()
        gc.collect()
        gc.disable()
        self._closed = False

    def __iter__(self) -> Iterator[Batch]:
        for batch in itertools.cycle(self._batches):
            if self._closed:
                return
            yield batch

    def readback(self) -> Params:
        return self._readback

    def stage_stats(self) -> list[StageStats]:
        return []

    def failed(self) -> tuple[int, list[FailedClip]]:
        return 0, []

    def close(self) -> None:
        self._closed = True
        self._batches = []
        if self._gc_was_on:
            gc.enable()

    def versions(self) -> dict[str, str]:
        return self._versions


def kept(batch: Batch) -> Batch:
    """A copy that does not lie in memory of the loader's, which may use it again."""
    return dataclasses.replace(batch, video=_copy(batch.video), label=_copy(batch.label))


def _copy(data: Any) -> Any:
    return data.clone() if hasattr(data, "clone") else data


def build_ceiling(target: Target, context: BuildContext) -> MemoryLoader:
    """The loader that feeds the consumer from memory.

    Raises:
        InputError: if there is no consumer that could be slower than memory.
    """
    if context.spec.consumer.kind == "none":
        raise InputError("mode ceiling: the consumer is none, so nothing limits the loader")
    return MemoryLoader(target.build(context))


def report_stages(target: Target, context: BuildContext, emit: EventWriter) -> None:
    """Run each stage alone and report what it reached.

    The supervisor is told of a first batch before anything is measured: its limits for a
    silent start-up do not apply to a worker that builds no pipeline.

    Raises:
        UnsupportedError: if the target cannot run its stages alone.
        InputError: with several ranks: what a stage reaches alone is that of one process.
    """
    if context.world_size != 1:
        raise InputError(f"mode stages: ranks: {context.world_size}; accepted is 1")
    params = context.spec.params
    emit(BuiltEvent(time=time.monotonic(), rank=context.rank, readback=params))
    ready = processes.age()
    emit(FirstBatchEvent(time=time.monotonic(), rank=context.rank, seconds=ready))
    began = time.monotonic()
    stages = target.stages_alone(context)
    if not stages:
        raise UnsupportedError(f"target {target.name} does not run its stages alone")
    measurement = stages_measurement(stages, ready, time.monotonic() - began)
    measurement = measurement.model_copy(update={"readback": params})
    emit(FinishedEvent(time=time.monotonic(), measurement=measurement))


def stages_measurement(stages: list[StageCeiling], ready: float, seconds: float) -> Measurement:
    """What the stages reached, in the form of a measurement.

    No loader ran, so there is nothing to report of one: ``samples_per_second`` is what the
    slowest stage reached at its best, with an interval of +-100 %, and counts are 0.

    Args:
        stages: at least one.
        ready: seconds from the start of the worker until it began.
        seconds: that all of it took.
    """
    best: dict[str, float] = {}
    for stage in stages:
        best[stage.name] = max(stage.samples_per_second, best.get(stage.name, 0.0))
    slowest = min(best.values())
    return Measurement(
        samples_per_second=slowest,
        within_low=0.0,
        within_high=2 * slowest,
        fps=0.0,
        decoded_fps=0.0,
        unique_frames=0.0,
        time_to_first_batch=ready,
        accelerator_utilization=None,
        warmup_seconds=0.0,
        seconds=seconds,
        steady=False,
        batches=0,
        samples=0,
        frames=0,
        decoded_frames=0,
        failed=0,
        slowest_rank=slowest,
        stage_ceilings=stages,
    )
