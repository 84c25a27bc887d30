"""One rank of a measurement, in this process."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import threading
import time
import traceback
from typing import NoReturn

from autotune.consumers import Consumer, make_consumer
from autotune.exceptions import MeasurementFailed
from autotune.measuring import pagecache
from autotune.measuring.contamination import blame
from autotune.measuring.delivery import check_decoder
from autotune.measuring.measurement import Run, measure
from autotune.measuring.telemetry import Telemetry
from autotune.system import processes
from autotune.targets.base import BuildContext, Target
from autotune.trial import (
    TRIAL_MARK,
    BuiltEvent,
    FailedEvent,
    Failure,
    FinishedEvent,
    Params,
    StartedEvent,
    TrialSpec,
)
from autotune.worker import bootstrap
from autotune.worker.ceiling import build_ceiling, report_stages
from autotune.worker.channel import Control, EventWriter
from autotune.worker.departure import Departure, flush
from autotune.worker.faults import failure_of
from autotune.worker.live import Live


def run_single(
    line: bytes,
    seen: bytes,
    options: argparse.Namespace,
    argv: list[str],
    departure: Departure,
) -> NoReturn:
    """Measure one rank and exit: 0 after ``finished``, 1 after ``failed``."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    emit = EventWriter(options.events_fd)
    rank = options.rank or 0
    had_batch = threading.Event()
    live = Live(rank)
    try:
        spec = TrialSpec.model_validate_json(line)
        target = bootstrap.find_target(spec.target)
        os.set_inheritable(options.events_fd, True)  # to survive the re-execution
        asked = bootstrap.enter_environment(
            target,
            spec.params,
            spec.settings,
            line + b"\n" + seen,
            argv,
            again=options.spec_fd is not None,
        )
        os.set_inheritable(options.events_fd, False)
        control = Control(bootstrap.take_over_stdin(), seen)
        # The guardian ends what else there is; without a supervisor nothing here has a purpose.
        control.start(on_end=lambda: os._exit(1), on_watch=live.begin)
        live.describe(spec)
        emit(StartedEvent(time=time.monotonic(), pid=os.getpid(), rank=rank, environment=asked))
        _measure(spec, target, rank, options.world, emit, control, had_batch, live)
    except BaseException as error:
        if not isinstance(error, MeasurementFailed):
            traceback.print_exc()
        failure = failure_of(error, had_batch.is_set())
        if failure.kind == "gpu_out_of_memory":
            ours = processes.marked(TRIAL_MARK, os.environ.get(TRIAL_MARK, ""))
            failure = blame(failure, ours)
        emit(FailedEvent(time=time.monotonic(), rank=rank, failure=failure))
        departure.leave(1)
    departure.leave(0)


def _measure(
    spec: TrialSpec,
    target: Target,
    rank: int,
    world: int,
    emit: EventWriter,
    control: Control,
    had_batch: threading.Event,
    live: Live,
) -> None:
    """Build, measure, report, close: what was measured is told before anything can hang."""
    limit = spec.limits.host_memory_gib
    telemetry = Telemetry.of_this_process(limit) if world == 1 else None
    began = time.monotonic()
    # the leader does it for several ranks, once and before it starts them
    page_cache = pagecache.prepare_for(spec, emit) if world == 1 else None
    unmeasured = time.monotonic() - began
    with contextlib.ExitStack() as stack:  # each is closed even where another one raises
        if telemetry is not None:
            stack.callback(telemetry.stop)
        context = BuildContext(spec=spec, rank=rank, world_size=world)
        if spec.mode == "stages":
            report_stages(target, context, emit)
            return
        if spec.locate_seconds is not None:
            from autotune.worker.locating import Locating  # rarely asked for, and slow to import

            locating = Locating(spec.locate_seconds, emit, rank)
            locating.start()
            stack.callback(locating.stop)
        alone = spec.mode == "ceiling"
        loader = build_ceiling(target, context) if alone else target.build(context)
        stack.callback(loader.close)
        live.watch(loader)
        stack.callback(live.stop)
        readback = loader.readback()
        check_readback(spec.params, readback)
        # built while the pipeline fills: a model takes its time
        consumer = _consumer(spec)
        stack.callback(consumer.close)
        versions = {**loader.versions(), **consumer.details}
        emit(BuiltEvent(time=time.monotonic(), rank=rank, readback=readback, versions=versions))
        run = Run(
            settings=spec.measurement,
            max_failed_share=spec.limits.max_failed_share,
            rank=rank,
            alone=world == 1,
            emit=live.tap(emit),
            go=control.go,
            stop=control.stop,
            soak=spec.mode == "soak",
            had_batch=had_batch,
            give_up=lambda failure: _give_up(failure, emit, rank),
            incumbent=spec.incumbent,
            expected=target.expected(spec),
            unmeasured_seconds=unmeasured,
        )
        measurement = measure(loader, consumer, run, telemetry)
        warnings = loader.warnings()
        if telemetry is not None and spec.mode in ("loader", "soak"):
            warnings = [*warnings, *check_decoder(str(spec.params.get("device")), measurement)]
        measurement = measurement.model_copy(
            update={
                "readback": readback,
                "versions": versions,
                "page_cache": page_cache,
                "warnings": warnings,
            }
        )
        emit(FinishedEvent(time=time.monotonic(), measurement=measurement))


def _consumer(spec: TrialSpec) -> Consumer:
    device = "cpu"
    if spec.consumer.kind == "train_step":
        import torch

        # trained where production trains, whatever device decodes; a rank sees its GPU alone
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return make_consumer(spec.consumer, device)


def check_readback(asked: Params, built: Params) -> None:
    """Compare what was asked for with what was built.

    Raises:
        MeasurementFailed: of kind ``start_up``, naming every difference and every parameter
            that the loader does not report.
    """
    problems = [
        f"{name}: asked for {value}, built {built[name]}"
        for name, value in asked.items()
        if name in built and not _same(value, built[name])
    ]
    missing = [name for name in asked if name not in built]
    if missing:
        problems.append(f"not read back from the pipeline: {', '.join(missing)}")
    if problems:
        cause = "; ".join(problems)
        advice = "The pipeline is not the one asked for, so its figures would mislead."
        raise MeasurementFailed(Failure(kind="start_up", cause=cause, advice=advice))


def _same(asked: object, built: object) -> bool:
    if isinstance(asked, bool) or isinstance(built, bool):
        return asked is built
    return asked == built


def _give_up(failure: Failure, emit: EventWriter, rank: int) -> None:
    """Report a failure while the main thread waits for a batch that will not come."""
    if emit(FailedEvent(time=time.monotonic(), rank=rank, failure=failure)):
        flush()
        os._exit(1)
