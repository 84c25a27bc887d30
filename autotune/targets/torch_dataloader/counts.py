"""What the stages did, from what the workers send along with each batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from autotune.targets.base import QueueLevel
from autotune.trial import StageStats

STAGES = ("fetch", "demux", "decode", "scale", "collate", "transform", "sink")
"""fetch to scale work on samples and collate on batches, in the workers; transform and sink in
the training process. A decoder that cannot tell its parts apart counts them as decode."""

_PER_SAMPLE = ("fetch", "demux", "decode", "scale")


class Counts:
    """Adds up, and says what came since it was last asked.

    Args:
        workers: worker processes; 0 where the training process does the work.
        capacity: batches that can be ready at once.
        made: how many batches the workers have made so far.
    """

    def __init__(self, workers: int, capacity: int, made: Callable[[], int]) -> None:
        self._workers = workers
        self._capacity = capacity
        self._made = made
        self._taken = 0
        self._level = 0.0
        self._changed = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self._since = time.monotonic()
        self._tasks = dict.fromkeys(STAGES, 0)
        self._busy = dict.fromkeys(STAGES, 0.0)
        self._failures = 0
        self._waited = 0.0
        self._filled = 0.0

    def batch(
        self, samples: int, failures: int, seconds: Mapping[str, float], waited: float
    ) -> None:
        """Count a batch that was taken from the queue.

        Args:
            samples: delivered in it.
            failures: clips that failed on the way to it.
            seconds: of the workers, by stage, summed over the samples.
            waited: seconds the training process waited for it.
        """
        for stage, spent in seconds.items():
            self._busy[stage] += spent
            self._tasks[stage] += samples + failures if stage in _PER_SAMPLE else 1
        self._failures += failures
        self._taken += 1
        self._tasks["sink"] += 1
        self._waited += waited
        # The filling is seen only when a batch is taken: in between it grew about evenly.
        now, left = time.monotonic(), float(max(0, self._made() - self._taken))
        self._filled += (self._level + left + 1.0) / 2 * (now - self._changed)
        self._level, self._changed = left, now

    def transformed(self, seconds: float) -> None:
        """Count the training process's own work on a batch."""
        self._tasks["transform"] += 1
        self._busy["transform"] += seconds

    def level(self) -> QueueLevel:
        """Batches that are made and not taken, now. Safe from any thread."""
        return QueueLevel("sink", max(0, self._made() - self._taken), self._capacity)

    def take(self) -> list[StageStats]:
        """The statistics since the last call."""
        now = time.monotonic()
        room = self._capacity * (now - self._since)
        stats = []
        for stage in STAGES:
            last = stage == "sink"
            tasks = self._tasks[stage]
            stats.append(
                StageStats(
                    name=stage,
                    concurrency=1 if stage in ("transform", "sink") else max(1, self._workers),
                    tasks=tasks,
                    failures=self._failures if stage == "decode" else 0,
                    busy_seconds=self._busy[stage],
                    queue_size=self._capacity if last else 0,
                    queue_occupancy=min(1.0, self._filled / room) if last and room > 0 else 0.0,
                    get_seconds=self._waited / tasks if last and tasks else 0.0,
                )
            )
        self._clear()
        return stats
