"""Several ranks of one measurement: starts them, lines them up, adds them up.

    leader --spec, go, stop--> rank 0..N-1 --events--> leader --merged events--> supervisor

The leader imports nothing heavy. The supervisor sees one worker: the ranks' events go on to it
as they are, but their ``finished`` events end here, in one for the sum over the window that all
ranks have in common. Where one rank fails, all end with that failure.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, NoReturn, cast

from pydantic import ValidationError

from autotune import stats
from autotune.exceptions import MeasurementFailed
from autotune.measuring import pagecache
from autotune.measuring.delivery import check_decoder
from autotune.measuring.early_stopping import MIN_SECONDS, EarlyStopping
from autotune.measuring.figures import (
    Decision,
    Record,
    data_failure,
    decide,
    summarize,
    window_event,
)
from autotune.measuring.measurement import sample_event
from autotune.measuring.telemetry import Telemetry
from autotune.system import machine, processes
from autotune.trial import (
    BuiltEvent,
    Event,
    FailedClip,
    FailedEvent,
    Failure,
    FinishedEvent,
    FirstBatchEvent,
    Measurement,
    Resources,
    SampleEvent,
    TrialSpec,
    WindowEvent,
    parse_event,
)
from autotune.worker import bootstrap
from autotune.worker.channel import Control, EventWriter
from autotune.worker.departure import Departure
from autotune.worker.faults import failure_of

_log = logging.getLogger("autotune.worker")

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 0.5


@dataclass
class _Rank:
    """One rank's process, its pipes and what came from it."""

    number: int
    process: subprocess.Popen[bytes]
    events: int
    record: Record
    buffer: bytearray = field(default_factory=bytearray)
    built: BuiltEvent | None = None
    ready: bool = False
    final: Measurement | None = None
    ended: bool = False

    def tell(self, command: bytes) -> None:
        """Send a command; a rank that is gone is noticed by its exit."""
        pipe = cast("IO[bytes]", self.process.stdin)
        with contextlib.suppress(BrokenPipeError):
            pipe.write(command + b"\n")
            pipe.flush()


def run_leader(line: bytes, seen: bytes, events_fd: int, departure: Departure) -> NoReturn:
    """Measure with several ranks and exit: 0 after ``finished``, 1 after ``failed``."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    emit = EventWriter(events_fd)
    control = Control(bootstrap.take_over_stdin(), seen)
    control.start(on_end=lambda: os._exit(1))
    group: _Group | None = None
    try:
        spec = TrialSpec.model_validate_json(line)
        group = _Group(spec, emit, control)
        finished = group.measure()
    except BaseException as error:
        had_batch = group is not None and any(r.ready for r in group.ranks)
        if not isinstance(error, MeasurementFailed):
            _log.exception("the leader of the ranks failed")
        if group is not None:
            group.end()
        emit(FailedEvent(time=time.monotonic(), failure=failure_of(error, had_batch)))
        departure.leave(1)
    emit(finished)
    group.end()
    departure.leave(0)


class _Group:
    """All ranks of one measurement."""

    def __init__(self, spec: TrialSpec, emit: EventWriter, control: Control) -> None:
        self._spec = spec
        self._emit = emit
        self._control = control
        self._watched = False
        self._telemetry = Telemetry.of_this_process(spec.limits.host_memory_gib)
        self._selector = selectors.DefaultSelector()
        self._devices = machine.visible_devices()
        self._estimate: stats.RateEstimate | None = None
        self._early = EarlyStopping(spec.incumbent, spec.measurement)
        self._stopped_early = False
        self.ranks: list[_Rank] = []

    def measure(self) -> FinishedEvent:
        """Start the ranks, measure until the sum is known, stop them.

        Raises:
            MeasurementFailed: as the first rank that failed did.
        """
        page_cache = pagecache.prepare_for(self._spec, self._emit)
        for number in range(self._spec.ranks):
            self.ranks.append(self._spawn(number))
        while not all(r.ready for r in self.ranks):
            self._pump()
        self._telemetry.start()
        for rank in self.ranks:
            rank.tell(b"go")
        self._measure_until_known()
        for rank in self.ranks:
            rank.tell(b"stop")
        while not all(r.final is not None for r in self.ranks):
            self._pump()
        decision = decide([r.record for r in self.ranks], self._spec.measurement)
        if decision is None:
            cause = "the ranks have no stretch of time in common"
            raise MeasurementFailed(Failure(kind="crash", cause=cause))
        measurement = self._sum(decision).model_copy(update={"page_cache": page_cache})
        if self._spec.mode in ("loader", "soak"):
            found = check_decoder(str(self._spec.params.get("device")), measurement)
            measurement = measurement.model_copy(
                update={"warnings": [*measurement.warnings, *found]}
            )
        return FinishedEvent(time=time.monotonic(), measurement=measurement)

    def end(self) -> None:
        """Wait for the ranks, and end those that would not."""
        self._telemetry.stop()
        failed = any(r.final is None for r in self.ranks)
        for rank in self.ranks:
            if failed:
                rank.process.kill()  # SIGTERM would make native libraries print their stacks
        limit = time.monotonic() + self._spec.limits.shutdown_seconds / 2
        for rank in self.ranks:
            try:
                rank.process.wait(timeout=max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("rank %d did not end by itself", rank.number)
                rank.process.kill()
                rank.process.wait()
            with contextlib.suppress(BrokenPipeError):
                cast("IO[bytes]", rank.process.stdin).close()

    def _spawn(self, number: int) -> _Rank:
        read, write = os.pipe()
        options = ["--rank", str(number), "--world", str(self._spec.ranks)]
        process = subprocess.Popen(
            [sys.executable, "-m", "autotune.worker", "--events-fd", str(write), *options],
            stdin=subprocess.PIPE,
            pass_fds=(write,),
            env=self._rank_environment(number),
        )
        os.close(write)
        os.set_blocking(read, False)
        rank = _Rank(number, process, read, Record(rank=number))
        self._selector.register(read, selectors.EVENT_READ, rank)
        rank.tell(self._spec.model_dump_json().encode())
        return rank

    def _rank_environment(self, number: int) -> dict[str, str]:
        environment = {**os.environ, processes.SUPERVISOR_MARK: processes.identity()}
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[number % len(self._devices)]
        return environment

    def _measure_until_known(self) -> None:
        settings = self._spec.measurement
        began = looked = time.monotonic()
        while True:
            self._pump()
            now = time.monotonic()
            if any(r.final is not None for r in self.ranks):
                return
            if now - looked < max(_LOOK_SECONDS, 0.1 * (now - began)):
                continue
            looked = now
            if now - began < min(settings.min_seconds, MIN_SECONDS):
                continue
            records = [r.record for r in self.ranks]
            decision = decide(records, settings)
            if decision is not None and decision.enough:
                return
            if self._early.hopeless(records, decision):
                self._stopped_early = True
                return
            self._estimate = decision.estimate if decision is not None else None

    def _pump(self) -> None:
        """Take what the ranks sent; look after those that ended, and pass on who watches."""
        if self._control.watched.is_set() and not self._watched:
            self._watched = True
            for each in self.ranks:
                each.tell(b"watch")
        for key, _ in self._selector.select(_POLL_SECONDS):
            rank: _Rank = key.data
            while (data := _read(rank.events)) is not None:
                if data == b"":
                    self._selector.unregister(rank.events)
                    os.close(rank.events)
                    rank.ended = True
                    break
                rank.buffer += data
            *lines, rest = bytes(rank.buffer).split(b"\n")
            rank.buffer = bytearray(rest)
            for line in lines:
                self._take(rank, line)
        for rank in self.ranks:
            if rank.final is None and rank.ended and rank.process.poll() is not None:
                raise MeasurementFailed(_ended_early(rank))

    def _take(self, rank: _Rank, line: bytes) -> None:
        try:
            event: Event = parse_event(line)
        except ValidationError:
            quoted = line[:200].decode(errors="replace")
            cause = f"rank {rank.number}: no event on the event pipe: {quoted!r}"
            raise MeasurementFailed(Failure(kind="crash", cause=cause)) from None
        if isinstance(event, FailedEvent):
            failure = event.failure
            raise MeasurementFailed(
                failure.model_copy(update={"cause": f"rank {rank.number}: {failure.cause}"})
            )
        if isinstance(event, FinishedEvent):
            rank.final = event.measurement
            return
        if isinstance(event, WindowEvent | SampleEvent):
            rank.record.add(event.window)
            if not event.window.steady:  # a rank says so while what waited in buffers comes out
                rank.record.drained = len(rank.record.times)
            if isinstance(event, SampleEvent):
                rank.record.thin()
                self._emit(sample_event(event.window, self._telemetry.latest()))
                return
            self._emit(window_event(event.window, self._estimate))
            return
        if isinstance(event, BuiltEvent):
            rank.built = event
        elif isinstance(event, FirstBatchEvent):
            rank.ready = True
            rank.record.first_batch_seconds = event.seconds
        self._emit(event)

    def _resources(self, decision: Decision, finals: Sequence[Measurement]) -> Resources:
        """Of all processes; what each rank's loader held ahead, only the rank itself knows."""
        held = {
            name: _added(getattr(final.resources, name) for final in finals)
            for name in ("cache_gib", "cache_mean_gib")
        }
        return self._telemetry.resources(decision.start, decision.end).model_copy(update=held)

    def _sum(self, decision: Decision) -> Measurement:
        finals = [r.final for r in self.ranks if r.final is not None]
        failed = sum(f.failed for f in finals)
        clips: list[FailedClip] = [c for f in finals for c in f.failed_clips][:20]
        delivered = sum(sum(r.record.samples) for r in self.ranks)
        limit = self._spec.limits.max_failed_share
        failure = data_failure(failed, delivered, clips, limit, final=True)
        if failure is not None:
            raise MeasurementFailed(failure)
        measurement = summarize(
            [r.record for r in self.ranks],
            decision,
            failed,
            clips,
            self._resources(decision, finals),
            max(r.record.first_batch_seconds for r in self.ranks),
        )
        measurement = measurement.model_copy(
            update={
                "stopped_early": self._stopped_early,
                "contamination": self._telemetry.contamination(decision.start, decision.end),
                "delivered": next((f.delivered for f in finals if f.delivered), None),
                "warnings": list(dict.fromkeys(text for f in finals for text in f.warnings)),
            }
        )
        first = self.ranks[0].built
        if first is None:
            return measurement
        return measurement.model_copy(
            update={"readback": first.readback, "versions": first.versions}
        )


def _added(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _ended_early(rank: _Rank) -> Failure:
    code = rank.process.returncode
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
    return Failure(
        kind="crash" if rank.ready else "start_up",
        cause=f"rank {rank.number} was {how}" if code < 0 else f"rank {rank.number} {how}",
    )


def _read(descriptor: int) -> bytes | None:
    """What is there to read; b"" at the end, None if nothing is there yet."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return None
