"""Stage statistics, kept in shared memory: no message is sent, and nothing has to be drained.

Each stage has one row of doubles, written by the process that runs the stage and read by the
loader whenever it likes. A row is written by one process only, under that process's lock or on
its event loop; aligned doubles are read whole. Times are CLOCK_MONOTONIC, which all processes
of a machine share.

SPDL's own statistics (`StatsQueue`, `TaskStatsHook`) keep four percentile estimates an item in
pure Python; these here count and add, and cost about a tenth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from ctypes import c_double
from typing import Any

from autotune.trial import StageStats

# Columns of a row.
TASKS, FAILURES, BUSY, CONCURRENCY, PID = range(5)
CAPACITY, PUTS, PUT_WAIT, GETS, GET_WAIT, FILLED, LEVEL, CHANGED = range(5, 13)
_COLUMNS = 13

_STOP = 0
_HEADER = 1


class StatsBoard:
    """The rows of all stages, and the flag that ends the pipeline.

    Args:
        stages: their names, in the order of the pipeline.
        context: the multiprocessing context whose processes share the board; None for one
            process alone.
    """

    def __init__(self, stages: Sequence[str], context: Any = None) -> None:
        self.stages = tuple(stages)
        size = _HEADER + _COLUMNS * len(self.stages)
        self._array: Any = (c_double * size)() if context is None else context.RawArray("d", size)
        self._attach()

    def _attach(self) -> None:
        self._view: memoryview[float] = memoryview(self._array).cast("B").cast("d")
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[tuple[str, ...], Any]:
        return self.stages, self._array

    def __setstate__(self, state: tuple[tuple[str, ...], Any]) -> None:
        self.stages, self._array = state
        self._attach()

    @property
    def stopped(self) -> bool:
        """Whether the pipeline is to end: stages then pass nothing on."""
        return self._view[_STOP] != 0.0

    def stop(self) -> None:
        """Ask every stage, in every process, to end."""
        self._view[_STOP] = 1.0

    def row(self, stage: str) -> memoryview[float]:
        """The live row of ``stage``."""
        start = _HEADER + _COLUMNS * self.stages.index(stage)
        return self._view[start : start + _COLUMNS]

    def add_task(self, row: memoryview[float], seconds: float, failed: bool) -> None:
        """Count one task that took ``seconds``."""
        with self._lock:
            row[TASKS] += 1.0
            row[BUSY] += seconds
            if failed:
                row[FAILURES] += 1.0


def snapshot(board: StatsBoard) -> dict[str, list[float]]:
    """A copy of every row, with the filling of each queue counted up to now."""
    now = time.monotonic()
    rows = {}
    for stage in board.stages:
        row = list(board.row(stage))
        if row[CHANGED]:
            row[FILLED] += row[LEVEL] * max(0.0, now - row[CHANGED])
        row[CHANGED] = now
        rows[stage] = row
    return rows


def difference(
    stage: str, before: Sequence[float] | None, after: Sequence[float], since: float
) -> StageStats:
    """What happened in ``stage`` between two snapshots.

    Args:
        stage: its name.
        before: its row in the first one; None for the start of the pipeline.
        after: its row in the second one.
        since: time of the start, for the first snapshot.
    """
    base = list(before) if before is not None else [0.0] * _COLUMNS
    if before is None:
        base[CHANGED] = since
    delta = [b - a for a, b in zip(base, after, strict=True)]
    room = after[CAPACITY] * delta[CHANGED]
    return StageStats(
        name=stage,
        concurrency=int(after[CONCURRENCY]),
        tasks=int(delta[TASKS]),
        failures=int(delta[FAILURES]),
        busy_seconds=max(0.0, delta[BUSY]),
        queue_size=int(after[CAPACITY]),
        queue_occupancy=min(1.0, max(0.0, delta[FILLED] / room)) if room > 0 else 0.0,
        get_seconds=max(0.0, delta[GET_WAIT] / delta[GETS]) if delta[GETS] else 0.0,
        put_seconds=max(0.0, delta[PUT_WAIT] / delta[PUTS]) if delta[PUTS] else 0.0,
    )
