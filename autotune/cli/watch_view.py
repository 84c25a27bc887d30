"""How what is watched looks: a view of 80 columns on a terminal, a line an interval in a pipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotune.cli import figures
from autotune.live.lines import Point, QueuePoint, StagePoint
from autotune.live.watcher import Watcher

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

HISTORY_SECONDS = 60.0
"""What the small graphs show."""

GRAPH_WIDTH = 15
BAR_WIDTH = 10
_LEVELS = " ▁▂▃▄▅▆▇█"
_MOST_ROWS = 24
_NAME_WIDTH = 14
_NUMBERS = (1, 2, 3)
"""Columns of the table of stages that hold numbers."""
_SILENT_SECONDS = 3.0

Row = tuple[str, str]
"""A label and its text."""


def graph(shares: Sequence[float | None]) -> str:
    """Values of 0 to 1 as a line of small bars; a gap where nothing is known."""
    return "".join(
        " " if s is None else _LEVELS[1 + round(7 * min(1.0, max(0.0, s)))] for s in shares
    )


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A share of 0 to 1 as a bar."""
    full = round(width * min(1.0, max(0.0, share)))
    return "█" * full + "░" * (width - full)


def scaled(values: Sequence[float | None]) -> list[float | None]:
    """Values as shares of the largest."""
    top = max((value for value in values if value is not None), default=0.0)
    return [None if value is None or top <= 0 else value / top for value in values]


def plain_line(point: Point | None, prefix: str = "") -> str:
    """What is watched in one line."""
    if point is None:
        return f"{prefix}nothing published"
    parts = [f"{figures.number(point.samples_per_second)} samples/s"]
    if point.fps:
        parts.append(f"{figures.number(point.fps)} fps")
    if point.memory_gib is not None:
        parts.append(f"{figures.number(point.memory_gib)} GiB")
    if point.cpu_cores is not None:
        parts.append(f"{point.cpu_cores:.1f} cores")
    queues = [f"{queue.name} {_level(queue)}" for queue in point.queues]
    stages = [
        f"{stage.name} {figures.number(stage.milliseconds)} ms"
        for stage in point.stages
        if stage.milliseconds is not None
    ]
    groups = [", ".join(parts)]
    if queues:
        groups.append(f"queues: {', '.join(queues)}")
    if stages:
        groups.append(f"stages: {', '.join(stages)}")
    return prefix + "; ".join(groups)


def view(rows: Sequence[Row], watcher: Watcher | None, width: int) -> RenderableType:
    """Everything, to be drawn in place.

    Args:
        rows: what stands above: the study, the command.
        watcher: of what runs now; None where nothing is seen.
        width: columns of the terminal.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim", no_wrap=True, min_width=6)
    head.add_column(overflow="fold", max_width=max(20, width - 9))
    for label, text in [*rows, *(_figures(watcher) if watcher is not None else [])]:
        head.add_row(Text(label), Text(text))
    parts: list[RenderableType] = [head]
    if watcher is not None:
        recent = watcher.recent()
        if recent is not None and (recent.stages or recent.queues):
            parts += [Text(""), _table(watcher, recent)]
        if watcher.history.error:
            parts.append(Text(f"a queue cannot be asked: {watcher.history.error}", style="red"))
    return Group(*parts)


def _figures(watcher: Watcher) -> list[Row]:
    recent = watcher.recent()
    silent = watcher.silent_seconds()
    if recent is None or silent is None:
        since = "" if silent is None else f" for {figures.duration(silent)}"
        return [("rate", f"nothing published{since}")]
    now = time.time()
    series = watcher.history.series(now, HISTORY_SECONDS, GRAPH_WIDTH)
    rates = scaled([None if p is None else p.samples_per_second for p in series])
    rate = f"{figures.number(recent.samples_per_second)} samples/s"
    if recent.fps:
        rate += f", {figures.number(recent.fps)} fps"
    if silent > _SILENT_SECONDS:
        rate += f", silent for {figures.duration(silent)}"
    rows = [("rate", f"{rate:<46}{graph(rates)}".rstrip())]
    if recent.memory_gib is not None and recent.processes is not None:
        text = f"{figures.number(recent.memory_gib)} GiB in {_processes(recent.processes)}"
        if recent.cpu_cores is not None:
            text += f", {recent.cpu_cores:.1f} cores busy"
        used = _memory_series(watcher, now)
        rows.append(("memory", f"{text:<46}{graph(scaled(used))}".rstrip()))
    return rows


def _processes(count: int) -> str:
    return f"{count} process" + ("" if count == 1 else "es")


def _memory_series(watcher: Watcher, now: float) -> list[float | None]:
    step = HISTORY_SECONDS / GRAPH_WIDTH
    found: list[float | None] = [None] * GRAPH_WIDTH
    for memory in watcher.memory:
        index = GRAPH_WIDTH - 1 - int((now - memory.time) / step)
        if 0 <= index < GRAPH_WIDTH:
            found[index] = max(found[index] or 0.0, memory.gib)
    return found


def _table(watcher: Watcher, recent: Point) -> Text:
    """A row a stage with the queue behind it; queues of other names follow.

    As text: with a Rich table `autotune watch` took more than twice the CPU time, and it runs
    beside what is watched.
    """
    from rich.text import Text

    stages = {stage.name: stage for stage in recent.stages}
    queues = {queue.name: queue for queue in recent.queues}
    series = watcher.history.series(time.time(), HISTORY_SECONDS, GRAPH_WIDTH)
    rows = [("stage", "busy", "ms", "tasks/s", "queue behind it", "its last minute")]
    for name in list(dict.fromkeys([*stages, *queues]))[:_MOST_ROWS]:
        history = graph([_filled(point, name) for point in series])
        rows.append((name, *_stage_cells(stages.get(name)), _queue_cell(queues.get(name)), history))
    header, *others = _aligned(rows)
    text = Text(header, style="bold", no_wrap=True, overflow="ellipsis", end="")
    text.append("".join(f"\n{line}" for line in others), style="not bold")
    return text


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two blanks apart, the numbers to the right."""
    from rich.cells import cell_len, set_cell_size

    cells = [[_short(row[0]), *row[1:]] for row in rows]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(rows[0]))]
    lines = []
    for row in cells:
        parts = [
            " " * (width - cell_len(cell)) + cell if i in _NUMBERS else set_cell_size(cell, width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def _short(name: str) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(name) <= _NAME_WIDTH:
        return name
    return set_cell_size(name, _NAME_WIDTH - 1) + "…"


def _filled(point: Point | None, name: str) -> float | None:
    if point is None:
        return None
    return next((queue.filled for queue in point.queues if queue.name == name), None)


def _stage_cells(stage: StagePoint | None) -> tuple[str, str, str]:
    if stage is None:
        return "", "", ""
    if stage.milliseconds is None and not stage.failures:  # it only hands over, or nothing came
        return "", "", ""
    busy = "" if stage.busy is None else f"{100 * stage.busy:.0f} %"
    spent = "" if stage.milliseconds is None else figures.number(stage.milliseconds)
    failed = f" ({stage.failures} failed)" if stage.failures else ""
    return busy, spent, f"{figures.number(stage.tasks_per_second)}{failed}"


def _queue_cell(queue: QueuePoint | None) -> str:
    if queue is None:
        return ""
    if queue.filled is None:
        return _level(queue)
    return f"{bar(queue.filled)} {_level(queue)}"


def _level(queue: QueuePoint) -> str:
    return f"{queue.size}/{queue.capacity}" if queue.capacity else str(queue.size)
