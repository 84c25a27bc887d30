"""Lines of several processes as one series of points, with what came before kept for a while."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from autotune.live.lines import Line, Point, QueueLine, QueuePoint, StageLine, StagePoint

KEPT_SECONDS = 600.0
"""The history of a process goes back so far."""


class History:
    """Keeps the lines of the last minutes, and adds them up over any stretch of them."""

    def __init__(self, kept_seconds: float = KEPT_SECONDS) -> None:
        self._kept = kept_seconds
        self._lines: deque[Line] = deque()
        self.about: dict[str, Any] = {}
        """What is watched, as the last process to begin says."""
        self.error: str | None = None

    def add(self, lines: Iterable[Line]) -> None:
        """Keep more lines; each call brings them by time."""
        for line in lines:
            self._lines.append(line)
            self.about = line.about or self.about
            self.error = line.error or self.error
        while self._lines and self._lines[-1].time - self._lines[0].time > self._kept:
            self._lines.popleft()

    @property
    def last(self) -> float | None:
        """When the last line was published; None without one."""
        return self._lines[-1].time if self._lines else None

    def point(self, start: float, end: float) -> Point | None:
        """What happened after ``start`` until ``end`` (Unix times); None where nothing was told."""
        chosen = [line for line in self._lines if start < line.time <= end]
        return point_of(chosen) if chosen else None

    def series(self, end: float, seconds: float, count: int) -> list[Point | None]:
        """The stretch before ``end`` in ``count`` equal parts, the oldest first."""
        step = seconds / count
        start = end - seconds
        parts: list[list[Line]] = [[] for _ in range(count)]
        for line in self._lines:
            if start < line.time <= end:
                parts[min(count - 1, int((line.time - start) / step))].append(line)
        return [point_of(part) if part else None for part in parts]


def point_of(lines: Sequence[Line]) -> Point:
    """Lines of any processes as one point: rates add up over processes.

    Each process has its own time base, as its lines need not begin and end with the others'.
    """
    by_process: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        by_process[line.pid].append(line)
    seconds = {
        pid: max(1e-6, sum(line.seconds for line in told)) for pid, told in by_process.items()
    }

    def rate(count: Callable[[Line], int]) -> float:
        return sum(sum(map(count, told)) / seconds[pid] for pid, told in by_process.items())

    return Point(
        time=max(line.time for line in lines),
        seconds=max(seconds.values()),
        samples_per_second=rate(lambda line: line.samples),
        fps=rate(lambda line: line.frames),
        batches_per_second=rate(lambda line: line.batches),
        reporting=len(by_process),
        queues=_queues(by_process),
        stages=_stages(by_process, seconds),
    )


def _queues(by_process: dict[int, list[Line]]) -> list[QueuePoint]:
    """Each queue by name: the last levels added up, and the mean filling, weighted by capacity."""
    last: dict[str, list[QueueLine]] = defaultdict(list)
    filled: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for told in by_process.values():
        for queue in told[-1].queues:
            last[queue.name].append(queue)
        for queue in (queue for line in told for queue in line.queues):
            if queue.capacity > 0:
                share = queue.size / queue.capacity if queue.filled is None else queue.filled
                filled[queue.name].append((min(1.0, share), queue.capacity))
    return [
        QueuePoint(
            name=name,
            size=sum(queue.size for queue in queues),
            capacity=sum(queue.capacity for queue in queues),
            filled=_mean(filled[name]),
        )
        for name, queues in last.items()
    ]


def _mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    weight = sum(weight for _, weight in weighted)
    return sum(value * each for value, each in weighted) / weight if weight else None


def _stages(by_process: dict[int, list[Line]], seconds: dict[int, float]) -> list[StagePoint]:
    told: dict[str, dict[int, list[StageLine]]] = defaultdict(lambda: defaultdict(list))
    for pid, lines in by_process.items():
        for line in lines:
            for stage in line.stages:
                told[stage.name][pid].append(stage)
    return [_stage(name, stages, seconds) for name, stages in told.items()]


def _stage(
    name: str, by_process: dict[int, list[StageLine]], seconds: dict[int, float]
) -> StagePoint:
    everything = [stage for stages in by_process.values() for stage in stages]
    tasks = sum(stage.tasks for stage in everything)
    busy = sum(stage.busy_seconds for stage in everything)
    threads = {pid: stages[-1].concurrency for pid, stages in by_process.items()}
    room = sum(count * seconds[pid] for pid, count in threads.items())
    return StagePoint(
        name=name,
        concurrency=sum(threads.values()),
        tasks_per_second=sum(
            sum(stage.tasks for stage in stages) / seconds[pid]
            for pid, stages in by_process.items()
        ),
        milliseconds=1000 * busy / tasks if tasks and busy else None,
        busy=min(1.0, busy / room) if room else None,
        failures=sum(stage.failures for stage in everything),
    )
