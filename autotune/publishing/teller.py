"""What a script says of its queues, stages and steps, kept until it is published.

`autotune.probe` is how a script says it; this is loaded only where somebody watches, or may.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from autotune.publishing import publisher
from autotune.publishing.publisher import LIVE_VARIABLE, Publisher, live_folder

_LOOK_SECONDS = 0.5
_LONGEST_TEXT = 200


class Teller:
    """Adds up what a script says between two lines. Thread-safe."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._publisher: Publisher | None = None
        self._folder = ""
        self._next_look = 0.0
        self._lock = threading.Lock()
        self._queues: dict[str, tuple[Callable[[], int], int]] = {}
        self._stages: dict[str, tuple[int, float]] = {}
        self._steps = (0, 0, 0)

    def connect(self, path: str | None, scratch: str | None) -> None:
        """Publish from now on, or in a trial from when somebody watches it.

        Args:
            path: where to publish.
            scratch: folder of the trial that this process belongs to.

        Raises:
            OSError: if ``path`` cannot be written.
        """
        if publisher.of_this_process is not None:  # the worker's, which counts the steps itself
            self._publisher = publisher.of_this_process
            self._publisher.add_source(self.levels)
        elif path:
            self._publish_to(path)
        elif scratch:
            self._folder = live_folder(scratch)

    def _publish_to(self, path: str) -> None:
        mine = publisher.begin(self._rank)
        mine.about = {"command": " ".join(sys.argv)[:_LONGEST_TEXT]}
        mine.add_source(self.levels)
        mine.add_source(self.steps)
        mine.publish_to(path)
        self._publisher = mine

    def _look(self) -> None:
        """In a trial: whether somebody watches it now; asked twice a second at most."""
        if self._publisher is not None or not self._folder:
            return
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            if os.path.isdir(self._folder):
                with contextlib.suppress(OSError):  # the trial ended
                    self._publish_to(self._folder)

    def add_queue(self, name: str, size: Callable[[], int], capacity: int) -> None:
        """There is a queue; one of that name before it is no more."""
        with self._lock:
            self._queues[name] = (size, capacity)

    def took(self, name: str, seconds: float) -> None:
        """A task of a stage is done."""
        with self._lock:
            tasks, busy = self._stages.get(name, (0, 0.0))
            self._stages[name] = (tasks + 1, busy + seconds)
        self._look()

    def stepped(self, samples: int, frames: int) -> None:
        """A training step is done."""
        with self._lock:
            before = self._steps
            self._steps = (before[0] + samples, before[1] + frames, before[2] + 1)
        self._look()

    def levels(self) -> dict[str, Any]:
        """How full each queue is, and what each stage did since the last call."""
        with self._lock:
            queues = dict(self._queues)
        levels = [
            {"name": name, "size": int(size()), "capacity": capacity}
            for name, (size, capacity) in queues.items()
        ]
        with self._lock:
            stages = self._stages
            self._stages = dict.fromkeys(stages, (0, 0.0))
        return {
            "queues": levels,
            "stages": [
                {"name": name, "tasks": tasks, "busy_seconds": round(seconds, 5)}
                for name, (tasks, seconds) in stages.items()
            ],
        }

    def steps(self) -> dict[str, int]:
        """Steps since the last call."""
        with self._lock:
            samples, frames, batches = self._steps
            self._steps = (0, 0, 0)
        return {"samples": samples, "frames": frames, "batches": batches}


def connected(rank: int) -> Teller | None:
    """A teller for this process as its environment says; None, with a line on standard error,
    where that cannot be."""
    teller = Teller(rank)
    path = os.environ.get(LIVE_VARIABLE)
    try:
        teller.connect(path, os.environ.get("AUTOTUNE_SCRATCH"))
    except OSError as error:
        print(
            f"autotune.probe: {LIVE_VARIABLE}={path}: {error.strerror}; nothing is published. "
            "Give a folder, a named pipe or a file that can be written",
            file=sys.stderr,
        )
        return None
    return teller
