"""Runs one measurement in a fresh worker process and says how it ended.

    spawn -> specification -> events, log -> exit | limit | stop -> end the whole tree -> result

The worker is killed by the kernel when the *thread* that spawned it ends, so `supervise` spawns
and waits in one thread, the caller's. Whatever happens, nothing that carries the trial's mark is
left when it returns.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import IO, cast

from pydantic import ValidationError

from autotune import processes
from autotune.trial import (
    STUDY_MARK,
    TRIAL_MARK,
    Event,
    FailedEvent,
    FinishedEvent,
    FirstBatchEvent,
    Limits,
    Measurement,
    StartedEvent,
    TrialResult,
    TrialSpec,
    Window,
    WindowEvent,
    parse_event,
)
from autotune.verdict import Evidence, MemoryKills, judge

_log = logging.getLogger(__name__)

LOG_TAIL_BYTES = 16 * 1024

_POLL_SECONDS = 0.1
_MAX_LINE_BYTES = 16 * 2**20
_STRAGGLER_SECONDS = 2.0
"""Helper processes of multiprocessing end by themselves shortly after the worker."""
_GUARDIAN_SECONDS = 5.0


def child_environment(
    marks: Mapping[str, str],
    changes: Mapping[str, str | None] | None = None,
    ahead: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment to start a worker with.

    Args:
        marks: name the trial and the study.
        changes: variables to set, or to remove where None, e.g. what Ray put there.
        ahead: what the target asked for last time; spares the worker a second start.
    """
    environment = dict(os.environ)
    environment.pop(processes.ENVIRONMENT_MARK, None)
    for name, value in (changes or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    environment.setdefault("PYTHONFAULTHANDLER", "1")  # a segfault leaves its place in the log
    environment.update(marks)
    environment[processes.SUPERVISOR_MARK] = processes.identity()
    if ahead:
        before = {name: environment.get(name) for name in ahead}
        environment[processes.ENVIRONMENT_MARK] = json.dumps(before)
        environment.update(ahead)
    return environment


def supervise(
    spec: TrialSpec,
    on_event: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
    python: str = sys.executable,
    *,
    changes: Mapping[str, str | None] | None = None,
    ahead: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> TrialResult:
    """Make one measurement; blocks until nothing of it is left.

    Call it from a thread that lives as long as it runs (any thread that calls it does).

    Args:
        spec: what to measure.
        on_event: called, in this thread, with every event of the worker.
        stop: ends the measurement when set; the result's state is then ``stopped``.
        python: the interpreter of the worker.
        changes: environment variables to set, or to remove where None.
        ahead: the environment the target asked for in an earlier `StartedEvent`.
        cwd: working directory of the worker.

    Returns:
        The result; every failure of the worker is one, never an exception.
    """
    supervision = _Supervision(spec, on_event, stop or threading.Event())
    return supervision.run(python, child_environment(_marks(spec), changes, ahead), cwd)


def _marks(spec: TrialSpec) -> dict[str, str]:
    return {TRIAL_MARK: spec.uuid, STUDY_MARK: spec.study}


@dataclass
class _Seen:
    """What came from the worker."""

    events: int = 0
    last_event: str | None = None
    last_time: float = 0.0
    ranks_ready: set[int] = field(default_factory=set)
    ready_time: float | None = None
    measurement: Measurement | None = None
    failed: FailedEvent | None = None
    windows: list[Window] = field(default_factory=list)
    timeline: dict[str, float] = field(default_factory=dict)
    end_time: float | None = None


class _Supervision:
    def __init__(
        self,
        spec: TrialSpec,
        on_event: Callable[[Event], None] | None,
        stop: threading.Event,
    ) -> None:
        self._spec = spec
        self._on_event = on_event
        self._stop = stop
        self._seen = _Seen()
        self._log = bytearray()
        self._pending = bytearray()
        self._evidence = Evidence()
        self._notes: list[str] = []

    def run(self, python: str, environment: dict[str, str], cwd: str | None) -> TrialResult:
        kills = MemoryKills.read()
        started_at, self._began = time.time(), time.monotonic()
        self._seen.last_time = self._began
        events_read, events_write = os.pipe()
        log_read, log_write = os.pipe()
        command = [python, "-m", "autotune.worker", "--events-fd", str(events_write)]
        command += ["--mark", f"{TRIAL_MARK}={self._spec.uuid}", "--world", str(self._spec.ranks)]
        try:
            worker = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log_write,
                stderr=log_write,
                pass_fds=(events_write,),
                start_new_session=True,  # the terminal's Ctrl-C is for the driver alone
                env=environment,
                cwd=cwd,
            )
        except OSError as error:
            for descriptor in (events_read, events_write, log_read, log_write):
                os.close(descriptor)
            self._notes.append(f"{python}: {error.strerror}")
            return self._result(command, started_at, kills)
        os.close(events_write)
        os.close(log_write)
        try:
            self._send_specification(worker)
            self._watch(worker, events_read, log_read)
        finally:
            self._clean_up(worker, started_at)
            with contextlib.suppress(OSError):
                self._drain(events_read, self._take_events)
                self._drain(log_read, self._take_log)
            os.close(events_read)
            os.close(log_read)
        return self._result(command, started_at, kills)

    def _send_specification(self, worker: subprocess.Popen[bytes]) -> None:
        pipe = cast("IO[bytes]", worker.stdin)
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit status says why
            pipe.write(self._spec.model_dump_json().encode() + b"\n")
            pipe.flush()

    # ------------------------------------------------------------------ while it runs

    def _watch(self, worker: subprocess.Popen[bytes], events: int, log: int) -> None:
        """Read until the worker exits or has to be ended; sets why."""
        exit_descriptor = os.pidfd_open(worker.pid)
        takers: dict[int, Callable[[bytes], None]] = {
            events: self._take_events,
            log: self._take_log,
        }
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in takers:
                    os.set_blocking(descriptor, False)
                for descriptor in (*takers, exit_descriptor):
                    selector.register(descriptor, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select(_POLL_SECONDS):
                        if key.fd == exit_descriptor:
                            return
                        data = _read(key.fd)
                        if data == b"":
                            selector.unregister(key.fd)
                        elif data:
                            takers[key.fd](data)
                    if self._must_end():
                        return
        finally:
            os.close(exit_descriptor)

    def _must_end(self) -> bool:
        """Whether a limit is reached; notes which."""
        seen, limits, now = self._seen, self._spec.limits, time.monotonic()
        evidence = self._evidence
        if evidence.garbage:
            evidence.why = "garbage"
        elif self._stop.is_set():
            evidence.why = "stopped"
        elif seen.end_time is not None:
            if now - seen.end_time <= limits.shutdown_seconds:
                return False
            evidence.why, evidence.limit_seconds = "shutdown", limits.shutdown_seconds
        elif seen.ready_time is None:
            if now - self._began <= limits.startup_seconds:
                return False
            evidence.why, evidence.limit_seconds = "startup", limits.startup_seconds
        elif now - seen.last_time > limits.silence_seconds:
            evidence.why, evidence.limit_seconds = "silence", limits.silence_seconds
        elif now - seen.ready_time > _deadline(limits, self._spec.measurement.max_seconds):
            evidence.why = "deadline"
            evidence.limit_seconds = _deadline(limits, self._spec.measurement.max_seconds)
        else:
            return False
        return True

    def _drain(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        """Take what is left in a pipe, without waiting for writers that should not be."""
        os.set_blocking(descriptor, False)
        while data := _read(descriptor):
            take(data)

    def _take_log(self, data: bytes) -> None:
        self._log += data
        del self._log[:-LOG_TAIL_BYTES]

    def _take_events(self, data: bytes) -> None:
        self._pending += data
        while not self._evidence.garbage:
            line, newline, rest = self._pending.partition(b"\n")
            if not newline:
                if len(line) > _MAX_LINE_BYTES:
                    self._evidence.garbage = bytes(line)
                return
            self._pending = rest
            try:
                event = parse_event(bytes(line))
            except ValidationError:
                self._evidence.garbage = bytes(line) or b"(an empty line)"
                return
            self._take(event)

    def _take(self, event: Event) -> None:
        seen = self._seen
        seen.events += 1
        seen.last_event, seen.last_time = event.event, time.monotonic()
        seen.timeline.setdefault(event.event, seen.last_time - self._began)
        if isinstance(event, FirstBatchEvent):
            seen.ranks_ready.add(event.rank)
            if len(seen.ranks_ready) == self._spec.ranks:
                seen.ready_time = seen.last_time
        elif isinstance(event, WindowEvent):
            seen.windows.append(event.window)
        elif isinstance(event, FinishedEvent):
            seen.measurement, seen.end_time = event.measurement, seen.last_time
        elif isinstance(event, FailedEvent):
            seen.failed, seen.end_time = event, seen.last_time
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:  # a display must not cost a measurement
                _log.exception("on_event failed for %s", event.event)

    # ------------------------------------------------------------------ when it is over

    def _remaining(self, session: int, guardian: bool) -> list[int]:
        found = {*processes.marked(TRIAL_MARK, self._spec.uuid), *processes.in_session(session)}
        return [
            p for p in sorted(found) if guardian or processes.name_of(p) != processes.GUARDIAN_NAME
        ]

    def _clean_up(self, worker: subprocess.Popen[bytes], started_at: float) -> None:
        """End all that is left of the trial; the control pipe's end tells the guardian to go."""
        evidence = self._evidence
        segments: set[str] = set()
        if worker.poll() is None and evidence.why != "exited":
            segments = processes.shared_memory_of(self._remaining(worker.pid, False))
            # no SIGTERM first: native libraries answer it by printing their stacks. The trackers
            # of multiprocessing go last, as they unlink what the others leave.
            processes.end(
                lambda: [p for p in self._remaining(worker.pid, False) if not _is_tracker(p)],
                grace=0.0,
            )
        with contextlib.suppress(BrokenPipeError):
            cast("IO[bytes]", worker.stdin).close()
        try:
            evidence.exit_code = worker.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            self._notes.append(f"the worker (pid {worker.pid}) cannot be ended by SIGKILL")
        evidence.outlived, stuck = processes.end(
            lambda: self._remaining(worker.pid, False), patience=_STRAGGLER_SECONDS
        )
        # it removes the shared memory that the trial leaked, once all others are gone
        processes.end(lambda: self._remaining(worker.pid, True), patience=_GUARDIAN_SECONDS)
        if evidence.outlived:
            names = "; ".join(evidence.outlived)
            self._notes.append(f"ended after the worker, as they outlived it: {names}")
        if stuck:
            self._notes.append(f"processes that cannot be ended: {stuck}")
        processes.remove_shared_memory(segments, since=started_at)

    def _result(self, command: list[str], started_at: float, kills: MemoryKills) -> TrialResult:
        seen, evidence = self._seen, self._evidence
        result = TrialResult(
            uuid=self._spec.uuid,
            state="stopped",
            command_line=shlex.join(command),
            exit_code=evidence.exit_code,
            node=socket.gethostname(),
            started_at=started_at,
            wall_seconds=time.monotonic() - self._began,
            windows=seen.windows,
            timeline=seen.timeline,
        )
        if evidence.garbage and evidence.why == "exited":
            evidence.why = "garbage"
        if seen.measurement is not None and evidence.why != "garbage":
            if evidence.why == "shutdown":
                self._notes.append(
                    f"the worker did not end within {evidence.limit_seconds:g} s of its result"
                )
            elif evidence.exit_code != 0:
                self._notes.append(f"the worker ended with {evidence.exit_code} after its result")
            result = result.model_copy(
                update={
                    "state": "finished",
                    "measurement": seen.measurement,
                    "windows": _mark_steady(seen.windows, seen.measurement.warmup_seconds),
                }
            )
        elif evidence.why != "stopped":
            evidence.last_event = seen.last_event
            evidence.had_batch = bool(seen.ranks_ready)
            evidence.failure = seen.failed.failure if seen.failed is not None else None
            evidence.memory_killed = MemoryKills.read().grew_since(kills)
            result = result.model_copy(update={"state": "failed", "failure": judge(evidence)})
        return result.model_copy(update={"log_tail": self._log_tail()})

    def _log_tail(self) -> str:
        notes = "".join(f"[supervisor] {note}\n" for note in self._notes)
        text = self._log.decode(errors="replace")
        if text and not text.endswith("\n"):
            text += "\n"
        return text + notes


def _is_tracker(pid: int) -> bool:
    return "multiprocessing.resource_tracker" in processes.command_of(pid, 4096)


def _read(descriptor: int) -> bytes | None:
    """What is there to read; b"" at the end, None if nothing is there yet."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return None


def _deadline(limits: Limits, max_seconds: float) -> float:
    """Seconds after the first batch: the measurement, one wait of the longest kind for its last
    batches, and the shutdown."""
    return max_seconds + limits.silence_seconds + limits.shutdown_seconds


def _mark_steady(windows: list[Window], warmup_seconds: float) -> list[Window]:
    """Windows flagged by where the warm-up was found to end, known only afterwards."""
    if not windows:
        return windows
    begin = min(w.start for w in windows) + warmup_seconds - 1e-9
    return [w.model_copy(update={"steady": w.start >= begin}) for w in windows]


def environment_learnt(event: Event) -> dict[str, str] | None:
    """What the target asked of the environment, if this event says it."""
    return dict(event.environment) if isinstance(event, StartedEvent) else None


def end_leftovers(study: str, keep: Collection[int] = ()) -> list[str]:
    """End processes of a study whose supervisor is gone, and remove their shared memory.

    Processes whose supervisor lives are somebody's running measurement and stay.

    Args:
        study: the study's uuid.
        keep: pids to leave alone.

    Returns:
        The command lines of what was ended.
    """

    def orphans(guardians: bool = False) -> list[int]:
        return [
            pid
            for pid in processes.marked(STUDY_MARK, study, keep=(*keep, os.getpid()))
            if (guardians or processes.name_of(pid) != processes.GUARDIAN_NAME)
            and not processes.exists(
                processes.environment_of(pid).get(processes.SUPERVISOR_MARK, "")
            )
        ]

    found = orphans(guardians=True)
    if not found:
        return []
    segments = processes.shared_memory_of(found)
    began = time.time() - max(processes.age(pid) for pid in found)
    ended, _ = processes.end(orphans, grace=0.5)
    # guardians remember the segments of processes that are gone already: they end by themselves
    processes.end(lambda: orphans(guardians=True), patience=_GUARDIAN_SECONDS)
    processes.remove_shared_memory(segments, since=began)
    return ended
