"""Runs one measurement in a fresh worker process and says how it ended.

    spawn -> specification -> events, log -> exit | limit | stop -> end the whole tree -> result

The worker is killed by the kernel when the *thread* that spawned it ends, so `supervise` spawns
and waits in one thread, the caller's. Whatever happens, nothing that carries the trial's mark is
left when it returns.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, cast

from autotune.publishing.publisher import live_folder
from autotune.supervision.cleanup import Before, end_trial, make_scratch, remove_scratch
from autotune.supervision.intake import Intake, read
from autotune.supervision.limits import LimitWatch
from autotune.supervision.verdict import Evidence, MemoryKills, judge
from autotune.system import processes
from autotune.system.process_tree import ProcessTree
from autotune.system.shared_memory import quiet
from autotune.trial import (
    STUDY_MARK,
    TRIAL_MARK,
    Event,
    Limits,
    StartedEvent,
    TrialResult,
    TrialSpec,
    Window,
)

_POLL_SECONDS = 0.3
"""The longest wait between two looks; limits may ask for a shorter one."""
_LOOK_SECONDS = 1.0
"""Between two looks for shared memory, which sets off an alarm, and for somebody who watches."""
_EXIT_SECONDS = 2.0
"""A worker that ends closes the event pipe a little before it is gone."""


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
    marks = _marks(spec, supervision.scratch)
    return supervision.run(python, child_environment(marks, changes, ahead), cwd)


def _marks(spec: TrialSpec, scratch: str | None) -> dict[str, str]:
    marks = {TRIAL_MARK: spec.uuid, STUDY_MARK: spec.study}
    if scratch is not None:
        marks |= {processes.SCRATCH_MARK: scratch, "TMPDIR": scratch}
    return marks


class _Supervision:
    def __init__(
        self,
        spec: TrialSpec,
        on_event: Callable[[Event], None] | None,
        stop: threading.Event,
    ) -> None:
        self._spec = spec
        self._stop = stop
        self._seen = Intake(spec.ranks, on_event)
        self._evidence = Evidence()
        self._notes: list[str] = []
        self._before = Before()
        self._alarmed = False
        self._next_look = 0.0
        self._looked_last = False
        self._watched = False
        self._limits = LimitWatch(spec.limits, spec.ranks)
        self.scratch = make_scratch(spec.study, spec.uuid)

    def run(self, python: str, environment: dict[str, str], cwd: str | None) -> TrialResult:
        kills = MemoryKills.read()
        started_at = time.time()
        self._seen.begin()
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
            self._limits.close()
            remove_scratch(self.scratch)
            return self._result(command, started_at, kills)
        os.close(events_write)
        os.close(log_write)
        tree = ProcessTree(TRIAL_MARK, self._spec.uuid, worker.pid, self.scratch)
        try:
            self._send_specification(worker)
            self._watch(worker, tree, events_read, log_read)
        finally:
            self._limits.close()
            self._clean_up(worker, tree)
            with contextlib.suppress(OSError):
                self._seen.drain(events_read, self._seen.take_events)
                self._seen.drain(log_read, self._seen.take_log)
            os.close(events_read)
            os.close(log_read)
        return self._result(command, started_at, kills)

    def _send_specification(self, worker: subprocess.Popen[bytes]) -> None:
        pipe = cast("IO[bytes]", worker.stdin)
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit status says why
            pipe.write(self._spec.model_dump_json().encode() + b"\n")
            pipe.flush()

    # ------------------------------------------------------------------ while it runs

    def _watch(
        self, worker: subprocess.Popen[bytes], tree: ProcessTree, events: int, log: int
    ) -> None:
        """Read until the worker exits or has to be ended; sets why."""
        exit_descriptor = os.pidfd_open(worker.pid)
        alarm = self._before.segments.open_alarm()
        self._alarmed = alarm is not None
        takers: dict[int, Callable[[bytes], None]] = {
            events: self._seen.take_events,
            log: self._seen.take_log,
        }
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in takers:
                    os.set_blocking(descriptor, False)
                for descriptor in (*takers, exit_descriptor, *([] if alarm is None else [alarm])):
                    selector.register(descriptor, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select(self._pause()):
                        if key.fd == exit_descriptor:
                            self._seen.note_exit()
                            return
                        if key.fd == alarm:
                            quiet(key.fd)
                            self._next_look = 0.0
                            continue
                        data = read(key.fd)
                        if data == b"":
                            selector.unregister(key.fd)
                        if data is not None:
                            takers[key.fd](data)
                    self._look(tree, worker)
                    if self._must_end(tree):
                        return
        finally:
            os.close(exit_descriptor)
            if alarm is not None:
                os.close(alarm)

    def _pause(self) -> float:
        """Seconds to wait for something to happen."""
        return max(0.0, min(_POLL_SECONDS, self._limits.due_seconds))

    def _look(self, tree: ProcessTree, worker: subprocess.Popen[bytes]) -> None:
        """Remember what is the trial's while it can still be seen; notice who watches."""
        ending = self._seen.end_time is not None and not self._looked_last
        now = time.monotonic()
        if now < self._next_look and not ending:
            return
        if ending:
            self._looked_last = True
            tree.update()
        segments = self._before.segments
        segments.update(tree.remaining, now_or_never=ending)
        soon = segments.undecided or not self._alarmed
        self._next_look = now + (_POLL_SECONDS if soon else _LOOK_SECONDS)
        self._tell_of_watchers(worker)

    def _tell_of_watchers(self, worker: subprocess.Popen[bytes]) -> None:
        """Have the worker publish once somebody has made the folder for it (`autotune watch`)."""
        if self._watched or self.scratch is None or not os.path.isdir(live_folder(self.scratch)):
            return
        self._watched = True
        with contextlib.suppress(BrokenPipeError):
            pipe = cast("IO[bytes]", worker.stdin)
            pipe.write(b"watch\n")
            pipe.flush()

    def _must_end(self, tree: ProcessTree) -> bool:
        """Whether a limit is reached; notes which."""
        seen, limits, now = self._seen, self._spec.limits, time.monotonic()
        evidence = self._evidence
        if seen.garbage:
            evidence.why = "garbage"
        elif self._stop.is_set():
            evidence.why = "stopped"
        elif (excess := self._limits.exceeded(tree)) is not None:
            evidence.why = "limit"
            if seen.end_time is None:
                evidence.excess = excess
            else:  # its outcome is known already: that counts
                self._notes.append(f"ended after its result: {excess.cause}")
        elif seen.end_time is None and seen.closed_time is not None:
            if now - seen.closed_time <= _EXIT_SECONDS:
                return False
            evidence.why = "closed"
        elif seen.end_time is not None:
            if now - seen.end_time <= limits.shutdown_seconds:
                return False
            evidence.why, evidence.limit_seconds = "shutdown", limits.shutdown_seconds
        elif seen.preparing_since is not None:
            if now - seen.preparing_since <= limits.preparation_seconds:
                return False
            evidence.why, evidence.limit_seconds = "preparation", limits.preparation_seconds
        elif seen.ready_time is None:
            if now - seen.began - seen.preparation_seconds <= limits.startup_seconds:
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

    # ------------------------------------------------------------------ when it is over

    def _clean_up(self, worker: subprocess.Popen[bytes], tree: ProcessTree) -> None:
        at_once = self._evidence.why != "exited"
        cleaned = end_trial(worker, tree, self._before, self.scratch, at_once)
        self._evidence.exit_code = cleaned.exit_code
        self._evidence.outlived = cleaned.outlived
        self._notes += cleaned.notes

    def _result(self, command: list[str], started_at: float, kills: MemoryKills) -> TrialResult:
        seen, evidence = self._seen, self._evidence
        result = TrialResult(
            uuid=self._spec.uuid,
            state="stopped",
            command_line=shlex.join(command),
            exit_code=evidence.exit_code,
            node=socket.gethostname(),
            started_at=started_at,
            wall_seconds=time.monotonic() - self._seen.began,
            windows=seen.windows,
            timeline=seen.timeline,
        )
        if seen.garbage and evidence.why == "exited":
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
            evidence.last_event, evidence.garbage = seen.last_event, seen.garbage
            evidence.had_batch = bool(seen.ranks_ready)
            evidence.failure = seen.failed.failure if seen.failed is not None else None
            now = MemoryKills.read()
            evidence.memory_killed = now.grew_since(kills)
            evidence.full_group = now.groups.filled_since(kills.groups)
            result = result.model_copy(update={"state": "failed", "failure": judge(evidence)})
        return result.model_copy(update={"log_tail": self._seen.log_tail(self._notes)})


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
