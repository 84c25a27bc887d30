"""Ctrl-C once finishes the measurement in flight, twice stops it; SIGTERM counts like Ctrl-C."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.study.run import StopSignal

_STDERR = 2

FIRST = "Finishing the measurement in flight; Ctrl-C again to stop now."
SECOND = "Stopping now."


def tell_stderr(message: str) -> None:
    """Write a line without Python's buffers: a handler may interrupt a write to them."""
    os.write(_STDERR, f"{message}\n".encode())


class StopOnSignals:
    """Turns SIGINT and SIGTERM into a study's `StopSignal` while the context lasts."""

    def __init__(self, signal: StopSignal, tell: Callable[[str], None] = tell_stderr) -> None:
        self.tell = tell
        self._signal = signal
        self._count = 0
        self._running = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignals:
        for signum in (signals.SIGINT, signals.SIGTERM):
            self._before[signum] = signals.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signals.signal(signum, handler)

    def started(self) -> None:
        """The study's loop runs and heeds the signal from here on.

        The handlers are set once more: `ray.init` replaces that of SIGTERM.
        """
        self._running = True
        for signum in (signals.SIGINT, signals.SIGTERM):
            signals.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1:
            self._signal.request()
            self.tell(FIRST)
            return
        self._signal.stop_now()
        if self._count > 2 or not self._running:
            # Nothing polls the signal while machines are probed, or if the loop hangs.
            raise KeyboardInterrupt
        self.tell(SECOND)
