"""One loader that is watched: what it publishes and what its processes use, looked at now and then.

A watcher is its own process: the one that is watched only writes a line twice a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from autotune.live.channel import Channel
from autotune.live.history import History, point_of
from autotune.live.lines import Point
from autotune.live.usage import Usage, Used

RECENT_SECONDS = 5.0
"""Figures are shown over so long: a window of a measurement ends with a batch, so over half a
second a rate goes up and down by a batch."""

_MOST_POINTS = 600


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory at a time."""

    time: float
    gib: float


class Watcher:
    """Reads a channel and looks at the processes behind it."""

    def __init__(self, channel: Channel, usage: Usage | Callable[[int], Usage] | None) -> None:
        """Args:
        channel: where they publish.
        usage: looks at their memory; or makes what does, given the first pid that published.
        """
        self.history = History()
        self.memory: list[Memory] = []
        self.used: Used | None = None
        self._channel = channel
        self._usage = usage
        self._first = True

    def look(self) -> Point | None:
        """Read what is new; the point since the last look, None where nothing was published."""
        lines = self._channel.read()
        self.history.add(lines)
        if callable(self._usage) and lines:
            self._usage = self._usage(lines[-1].pid)
        if isinstance(self._usage, Usage):
            self.used = self._usage.look()
        if self.used is not None:
            self.memory.append(Memory(time.time(), self.used.memory_gib))
            del self.memory[:-_MOST_POINTS]
        first, self._first = self._first, False
        if first:  # a history: what is new is its end
            return self.recent()
        return self._with_usage(point_of(lines)) if lines else None

    def recent(self) -> Point | None:
        """Over the last seconds; None where nothing was published."""
        now = time.time()
        return self._with_usage(self.history.point(now - RECENT_SECONDS, now))

    def silent_seconds(self) -> float | None:
        """Since the last line; None before the first one."""
        last = self.history.last
        return None if last is None else max(0.0, time.time() - last)

    def _with_usage(self, point: Point | None) -> Point | None:
        if point is None or self.used is None:
            return point
        return point.model_copy(update=self.used._asdict())

    def close(self) -> None:
        """Read no more."""
        self._channel.close()
