"""Shows what is watched: drawn in place on a terminal, or a line an interval."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any

import typer

from autotune.cli.formatting import stdout_console
from autotune.cli.watch_view import Row, plain_line, view

if TYPE_CHECKING:
    from rich.console import Console

    from autotune.live.lines import Point
    from autotune.live.watcher import Watcher

_ONCE_SECONDS = 4.0
"""`--once` waits so long for a trial to publish."""
_LINES_SECONDS = 10.0
"""Between plain lines, unless told otherwise."""


class WatchFormat(StrEnum):
    """Accepted by ``-f``: a stream has no table of columns."""

    table = "table"
    json = "json"


class Scene:
    """What is watched, as the loop sees it."""

    def __init__(
        self,
        look: Callable[[], Point | None],
        rows: Callable[[], Sequence[Row]],
        watcher: Callable[[], Watcher | None],
        document: Callable[[], dict[str, Any]] = dict,
        over: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Args:
        look: takes in what is new.
        rows: what stands above the figures.
        watcher: of what runs now.
        document: keys of the JSON line besides ``live``.
        over: why there is nothing more to come; None while there is.
        """
        self.look = look
        self.rows = rows
        self.watcher = watcher
        self.document = document
        self.over = over


def draws(console: Console, fmt: WatchFormat) -> bool:
    """Whether there is a terminal to draw on."""
    return fmt is WatchFormat.table and console.is_terminal and not console.is_dumb_terminal


def show(scene: Scene, once: bool, every: float | None, fmt: WatchFormat) -> None:
    console = stdout_console()
    if draws(console, fmt) and not once:
        draw(scene, every or 1.0, console)
    else:
        lines(scene, once, every, fmt)


def draw(scene: Scene, every: float, console: Console, output: IO[bytes] | None = None) -> None:
    """Redraw in place until it is over. ``output`` of a command is printed above."""
    from rich.live import Live
    from rich.text import Text

    def forward(stream: IO[bytes]) -> None:
        for line in stream:
            live.console.print(Text(line.decode(errors="replace").rstrip()))

    with Live(console=console, auto_refresh=False, redirect_stdout=False) as live:
        reader: threading.Thread | None = None
        if output is not None:
            reader = threading.Thread(target=forward, args=(output,), daemon=True)
            reader.start()
        for _ in _ticks(every):
            scene.look()
            live.update(view(scene.rows(), scene.watcher(), console.width), refresh=True)
            if scene.over() is not None:
                break
        if reader is not None:
            reader.join(timeout=2.0)


def lines(
    scene: Scene, once: bool, every: float | None, fmt: WatchFormat, err: bool = False
) -> None:
    """A line an interval: for people, or JSON."""
    shown_head: list[Row] = []
    default = 1.0 if fmt is WatchFormat.json or once else _LINES_SECONDS
    began = time.monotonic()
    for _ in _ticks(every or default):
        point = scene.look()
        over = scene.over()
        waits = once and point is None and scene.watcher() is not None
        if waits and over is None and time.monotonic() - began < _ONCE_SECONDS:
            continue
        if fmt is WatchFormat.json:
            live = None if point is None else point.model_dump(mode="json")
            document = {"time": time.time(), **scene.document(), "live": live}
            typer.echo(json.dumps(document, ensure_ascii=False, default=str))
        else:
            head = list(scene.rows())
            if head != shown_head:
                shown_head = head
                for label, text in head:
                    typer.echo(f"{label:<8}  {text}", err=err)
            if scene.watcher() is not None:
                typer.echo(plain_line(point), err=err)
        sys.stdout.flush()
        if once or over is not None:
            return


def _ticks(every: float) -> Iterator[None]:
    """At once, and then after every so many seconds, without drifting."""
    began, count = time.monotonic(), 0
    while True:
        yield
        count += 1
        pause = began + count * every - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        else:
            began, count = time.monotonic(), 0
