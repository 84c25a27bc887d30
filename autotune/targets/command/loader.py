"""The steps of a running command as batches: they arrive when the command says so.

command --AUTOTUNE_EVENTS or output--> reports -> steps of all ranks -> Batch(arrived=...)
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from autotune.exceptions import MeasurementFailed
from autotune.system import processes
from autotune.targets.base import Batch, Loader
from autotune.targets.command.output import OutputLines
from autotune.targets.command.process import Command, read
from autotune.targets.command.reports import (
    EventLines,
    Report,
    Staged,
    Stages,
    Started,
    Steps,
)
from autotune.trial import FailedClip, Failure, Params, Scalar, StageStats

_STDOUT = 1
_POLL_SECONDS = 0.5
_PATIENCE = 0.9
"""Share of the start-up limit after which this side gives up: it knows why, the supervisor that
would end it does not."""


class CommandLoader(Loader):
    """Yields a batch whenever the command has reported a step."""

    may_end: ClassVar[bool] = True

    def __init__(
        self,
        command: Command,
        params: Params,
        steps: Steps,
        output: OutputLines | None,
        startup_seconds: float,
    ) -> None:
        """Args:
        command: running.
        params: it was started with.
        steps: adds the ranks up.
        output: finds reports in what it prints; None: only those on AUTOTUNE_EVENTS count.
        startup_seconds: the first step must come within this time of the worker's start.
        """
        self._command = command
        self._params = params
        self._steps = steps
        self._output = output
        self._patience = _PATIENCE * startup_seconds
        self._events = EventLines(time.monotonic())
        self._stages = Stages()
        self._ready: deque[Batch] = deque()
        self._selector = selectors.DefaultSelector()
        self._selector.register(command.exited, selectors.EVENT_READ, None)
        self._selector.register(command.events, selectors.EVENT_READ, self._take_events)
        if command.output is not None:
            self._selector.register(command.output, selectors.EVENT_READ, self._take_output)
        self._closed = False

    @property
    def prefetched_batches(self) -> int:
        """Steps that were reported and not yet counted."""
        return len(self._ready)

    def __iter__(self) -> Iterator[Batch]:
        while not self._closed:
            while self._ready:
                yield self._ready.popleft()
            if self._closed:
                return
            if self._command.exit_status() is not None:
                self._drain()
                yield from self._ready
                self._ready.clear()
                self._check_end()
                return
            self._wait()

    def _wait(self) -> None:
        for key, _ in self._selector.select(_POLL_SECONDS):
            if key.data is not None:
                self._pump(key.fd, key.data)
        if not self._steps.reports and processes.age() > self._patience:
            raise self._no_figure(f"after {self._patience:.0f} s")

    def _pump(self, descriptor: int, take: Callable[[bytes], None]) -> bool:
        """Take what is there to read; False if nothing is."""
        data = read(descriptor)
        if data == b"":  # every process closed its output
            self._selector.unregister(descriptor)
        if not data:
            return False
        take(data)
        return True

    def _drain(self) -> None:
        """Take what was written before the end."""
        for key in list(self._selector.get_map().values()):
            while key.data is not None and self._pump(key.fd, key.data):
                pass

    def _take_events(self, data: bytes) -> None:
        now = time.monotonic()
        reports = self._events.take(data, now)
        for report in reports:
            if isinstance(report, Started):
                self._compare(report.parameters)
            elif isinstance(report, Staged):
                self._stages.add(report, now)
        if self._output is None:
            self._add(r for r in reports if isinstance(r, Report))

    def _take_output(self, data: bytes) -> None:
        now = time.monotonic()
        with contextlib.suppress(OSError):
            os.write(_STDOUT, data)  # the trial's log
        if self._output is not None:
            self._add(self._output.take(data, now))

    def _add(self, reports: Iterable[Report]) -> None:
        for report in reports:
            batch = self._steps.add(report)
            if batch is not None:
                self._ready.append(batch)

    def _compare(self, told: Params) -> None:
        """Hold what the script says against what it was given."""
        problems = [
            f"{name}: asked for {_plain(asked)}, the script uses {_plain(told[name])}"
            for name, asked in self._params.items()
            if name in told and not _same(asked, told[name])
        ]
        if problems:
            raise MeasurementFailed(
                Failure(
                    kind="start_up",
                    cause="; ".join(problems),
                    advice="Let the script use what its command line says, or report in "
                    "autotune.probe.start what it really uses.",
                )
            )

    def _check_end(self) -> None:
        """The command has ended by itself.

        Raises:
            MeasurementFailed: if that was a failure, or there was no step to count.
        """
        status = self._command.exit_status() or 0
        steps = self._steps.reports
        if status != 0:
            how = (
                f"was killed by {_signal_name(-status)}"
                if status < 0
                else f"exited with status {status}"
            )
            last = f"; its last line: {self._output.last_line[:200]!r}" if self._output else ""
            raise MeasurementFailed(
                Failure(
                    kind="crash" if steps else "start_up",
                    cause=f"the command {how} after {steps} reported steps{last}",
                    advice=f"Run it by hand: {self._command.line}",
                )
            )
        if not steps:
            raise self._no_figure("and it ended with status 0")

    def _no_figure(self, when: str) -> MeasurementFailed:
        if self._output is None:
            cause = f"the command reported no step, {when}"
            advice = (
                "Call autotune.probe.step(samples=...) after every training step, or give "
                "target.regex to read the rate from what it prints."
            )
        else:
            seen = self._output
            cause = f"target.regex matched none of the {seen.lines} lines that the command printed"
            cause += f" (the last one: {seen.last_line[:200]!r})" if seen.lines else ""
            cause += f", {when}"
            advice = (
                "Compare the expression with the log tail; a command that prints late needs "
                "unbuffered output (`stdbuf -oL`) or more often a line."
            )
        return MeasurementFailed(Failure(kind="start_up", cause=cause, advice=advice))

    def readback(self) -> Params:
        """What the command was started with. What the script itself says in
        `autotune.probe.start` is compared when it comes."""
        return dict(self._params)

    def stage_stats(self) -> list[StageStats]:
        """Of the stages that the script times with `autotune.probe`, if it does."""
        return self._stages.take(time.monotonic())

    def failed(self) -> tuple[int, list[FailedClip]]:
        """None: the command alone knows."""
        return 0, []

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._selector.close()
            self._command.close()

    def warnings(self) -> list[str]:
        return [] if self._output is None else self._output.warnings()

    def versions(self) -> dict[str, str]:
        return {"command": self._command.line}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _plain(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _same(asked: Scalar, told: object) -> bool:
    """Equal, or equal as text: a script may keep a number that it never calculates with as text."""
    if isinstance(asked, bool) or isinstance(told, bool):
        return _plain(asked) == str(told).lower()
    return asked == told or str(asked) == str(told)
