"""The queues between the stages, which count into the board what passes and how long it waits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from spdl.pipeline import AsyncQueue, StatsQueue

from autotune.targets.spdl_video.stats import (
    CAPACITY,
    CHANGED,
    CONCURRENCY,
    FILLED,
    GET_WAIT,
    GETS,
    LEVEL,
    PUT_WAIT,
    PUTS,
    StatsBoard,
)


class CountingQueue(AsyncQueue):  # type: ignore[misc, unused-ignore]
    """Counts items and waits; used on its pipeline's event loop only."""

    def __init__(self, info: Any, *, buffer_size: int, row: memoryview[float]) -> None:
        super().__init__(info, buffer_size=buffer_size)
        self._row = row
        row[CHANGED] = time.monotonic()

    async def put(self, item: object) -> None:
        if not self.full():
            await super().put(item)
            return
        start = time.monotonic()
        await super().put(item)
        self._row[PUT_WAIT] += time.monotonic() - start

    async def get(self) -> object:
        if not self.empty():
            return await super().get()
        start = time.monotonic()
        item = await super().get()
        self._row[GET_WAIT] += time.monotonic() - start
        return item

    # asyncio.Queue calls these two whenever an item goes in or out, waiting or not.
    def _put(self, item: object) -> None:
        super()._put(item)
        self._note(PUTS)

    def _get(self) -> object:
        item = super()._get()
        self._note(GETS)
        return item

    def _note(self, counter: int) -> None:
        row, now = self._row, time.monotonic()
        row[counter] += 1.0
        row[FILLED] += row[LEVEL] * (now - row[CHANGED])
        row[LEVEL] = float(self.qsize())
        row[CHANGED] = now


class QueueFactory:
    """Makes the queue behind each stage of one pipeline; picklable, as SPDL asks for it.

    Args:
        board: where to count.
        names: SPDL's name of a stage, or how it begins, to its row on the board.
        count_sink: let the sink's queue measure how long it is waited for.
        waiting: tasks of a stage, by its name, that wait for one of its threads: SPDL counts
            them as concurrent.
    """

    def __init__(
        self,
        board: StatsBoard,
        names: Mapping[str, str],
        *,
        count_sink: bool = False,
        waiting: Mapping[str, int] | None = None,
    ) -> None:
        self._board = board
        self._names = dict(names)
        self._count_sink = count_sink
        self._waiting = dict(waiting or {})
        self.sink: AsyncQueue | None = None
        """The sink's queue, in the process that built the pipeline."""

    def __call__(self, info: Any, *, buffer_size: int = 1) -> AsyncQueue:
        name = self._row_name(info.stage_name)
        row = self._board.row(name)
        # What SPDL builds, from SPDL: this is read back.
        row[CONCURRENCY] = float((info.concurrency or 1) - self._waiting.get(name, 0))
        row[CAPACITY] = float(buffer_size)
        if info.stage_name != "sink":
            return CountingQueue(info, buffer_size=buffer_size, row=row)
        # SPDL hands the items of a sink over without a detour through its event loop only if
        # the queue's class is exactly one of its own, so the loader counts them instead.
        kind = StatsQueue if self._count_sink else AsyncQueue
        self.sink = kind(info, buffer_size=buffer_size)
        row[CHANGED] = time.monotonic()
        return self.sink

    def put_waits(self) -> tuple[int, float]:
        """Items put into the counted sink so far, and the seconds that putting them waited."""
        if not isinstance(self.sink, StatsQueue):
            return 0, 0.0
        counter = self.sink._putc
        return counter.num_items, counter.num_items * counter.ave_time

    def _row_name(self, stage: str) -> str:
        for name, row in self._names.items():
            if stage.startswith(name):
                return row
        raise KeyError(f"SPDL made a stage {stage!r} that has no row")
