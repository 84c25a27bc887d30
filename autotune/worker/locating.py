"""Looks for what grows in the processes of one rank, and tells it."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable

from autotune import heap
from autotune.system import processes
from autotune.trial import Event, GrowthEvent


class Locating(threading.Thread):
    """Begin it before the pipeline is built: what that forks looks into itself as well.

    Args:
        seconds: between two looks.
        emit: takes a `GrowthEvent` after each.
        rank: of this process.
    """

    def __init__(self, seconds: float, emit: Callable[[Event], object], rank: int) -> None:
        super().__init__(name="autotune-locating", daemon=True)
        self._seconds = seconds
        self._emit = emit
        self._rank = rank
        self._end = threading.Event()
        place = os.environ.get(processes.SCRATCH_MARK) or tempfile.mkdtemp(prefix="autotune-")
        self._folder = os.path.join(place, f"census-{rank}")
        heap.locate(self._folder, seconds)

    def run(self) -> None:
        while not self._end.wait(self._seconds):
            growing = heap.gather(self._folder)
            self._emit(GrowthEvent(time=time.monotonic(), rank=self._rank, growing=growing))

    def stop(self) -> None:
        """Look no more. Idempotent."""
        heap.leave()
        self._end.set()
