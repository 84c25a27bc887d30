"""`autotune watch`: a running study, or a loader of one's own, live."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from autotune.cli import figures
from autotune.cli.formatting import note, stderr_console
from autotune.cli.options import StorageOption, open_database, seconds
from autotune.cli.watch_show import Scene, WatchFormat, draw, draws, lines, show
from autotune.cli.watch_view import Row
from autotune.exceptions import InputError
from autotune.publishing.publisher import LIVE_VARIABLE

if TYPE_CHECKING:
    from autotune.live.lines import Point
    from autotune.live.watcher import Watcher
    from autotune.watching import StudyLook

_COMMAND = "autotune.command"


class WithCommand(TyperCommand):
    """A command that takes another one behind ``--``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what stands behind ``--`` for itself."""
        if "--" in args:
            place = args.index("--")
            ctx.meta[_COMMAND] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)


def watch(
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY | PATH | -- COMMAND...]",
            help="A running study; or where a script publishes (a path has a slash); or, after "
            "`--`, a command to run and watch.",
            show_default=False,
        ),
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option(
            "--pid",
            metavar="PID",
            help="A process that publishes, or one that runs a measurement.",
            show_default=False,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    interval: Annotated[
        str | None,
        typer.Option(
            "--interval",
            metavar="TIME",
            help="Between two looks. Default: 1s on a terminal and for JSON, 10s for plain lines.",
            show_default=False,
        ),
    ] = None,
    storage: StorageOption = None,
    fmt: Annotated[
        WatchFormat,
        typer.Option(
            "--format", "-f", help="json: one object a line, as it happens.", case_sensitive=False
        ),
    ] = WatchFormat.table,
) -> None:
    """Watch a running study, or a loader of your own: queues, rates, stage times, memory.

    The study may have been started elsewhere or by somebody else; its queues are seen on
    the machine that measures. Ctrl-C ends the watching and nothing else; exit status 0.

    \b
    Examples:
      autotune watch kinetics_nvdec
      autotune watch kinetics_nvdec -f json | jq .live.queues
      autotune watch -- python train.py --num-workers 4
      autotune watch --pid 4711
    """
    command: list[str] | None = context.meta.get(_COMMAND)
    if sum(given is not None for given in (what, pid, command)) != 1:
        raise InputError(
            "watch: give one of these: the name of a study, a path where something publishes, "
            "--pid PID, or -- COMMAND"
        )
    if once and command is not None:
        raise InputError("--once: a command that is run is watched until it ends; leave it out")
    every = None if interval is None else seconds(interval, "--interval")
    if command is not None:
        raise typer.Exit(_watch_command(command, every, fmt))
    with _quiet_end():
        if pid is not None or _is_path(str(what)):
            _watch_process(pid, what, once, every, fmt)
        else:
            _watch_study(str(what), storage, once, every, fmt)


def _is_path(what: str) -> bool:
    """A path has a slash; so may a study's name, of which there is no such file."""
    return what.startswith(("/", "./", "../")) or ("/" in what and os.path.exists(what))


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """Ctrl-C, or a reader that has seen enough, is how watching ends."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        note("")
    except BrokenPipeError:
        # Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _watch_study(
    name: str, storage: str | None, once: bool, every: float | None, fmt: WatchFormat
) -> None:
    from autotune.watching import StudyWatcher

    with open_database(storage) as database:
        watcher = StudyWatcher(database, database.get_study(name))
        looks: list[StudyLook] = []

        def look() -> Point | None:
            looks[:] = [watcher.look()]
            return looks[0].point

        scene = Scene(
            look,
            rows=lambda: study_rows(looks[0]),
            watcher=lambda: None if looks[0].where else watcher.watcher,
            document=lambda: study_document(looks[0]),
            over=lambda: looks[0].where if looks[0].over else None,
        )
        try:
            show(scene, once, every, fmt)
        finally:
            watcher.close()


def study_rows(look: StudyLook) -> list[Row]:
    """What the database says of a study, and what its trial is."""
    stands = look.summary
    total = "" if stands.trials_total is None else f"/{stands.trials_total}"
    parts = [
        figures.state(stands.state, stands.reason),
        f"{stands.trials_done}{total} trials done",
        f"{figures.duration(stands.elapsed_seconds)} elapsed",
    ]
    if stands.time_left_seconds is not None:
        parts.append(f"{figures.duration(stands.time_left_seconds)} left")
    rows = [("study", f"{stands.study}: {', '.join(parts)}")]
    if stands.best is not None:
        best = stands.best
        rate = figures.rate(best.samples_per_second, best.ci_low, best.ci_high)
        verified = ", verified" if best.verified else ""
        rows.append(("best", f"trial {best.number}: {rate}{verified}"))
        rows.append(("", figures.changes(best.params, look.baseline)))
    if look.where:
        rows.append(("now", look.where))
        return rows
    label = "a measurement" if look.number is None else f"trial {look.number}"
    params = look.about.get("params")
    changed = figures.changes(params, look.baseline) if params else "starting"
    rows.append(("now", f"{label}: {changed}"))
    return rows


def study_document(look: StudyLook) -> dict[str, Any]:
    """The study's part of a JSON line."""
    stands, best = look.summary, look.summary.best
    return {
        "study": stands.study,
        "state": stands.state,
        "trials_done": stands.trials_done,
        "trials_total": stands.trials_total,
        "best": None
        if best is None
        else {"number": best.number, "samples_per_second": best.samples_per_second},
        "trial": None
        if look.where
        else {"number": look.number, **{k: look.about.get(k) for k in ("mode", "params")}},
        "note": look.where or None,
    }


def _watch_process(
    pid: int | None, what: str | None, once: bool, every: float | None, fmt: WatchFormat
) -> None:
    from autotune.watching import watch_path, watch_process

    watcher = watch_path(Path(str(what))) if pid is None else watch_process(pid)
    try:
        show(_own_scene(watcher, f"process {pid}" if what is None else what), once, every, fmt)
    finally:
        watcher.close()


def _own_scene(watcher: Watcher, name: str) -> Scene:
    def over() -> str | None:
        if watcher.history.last is not None and watcher.used is None:
            return "its processes have ended"
        return None

    def rows() -> list[Row]:
        about = watcher.history.about
        what = about.get("command") or about.get("target")
        return [("watching", name if what is None else f"{name}: {what}")]

    return Scene(watcher.look, rows, lambda: watcher, over=over)


# --------------------------------------------------------------------------- a command


def _watch_command(command: Sequence[str], every: float | None, fmt: WatchFormat) -> int:
    """Run a command that publishes, and watch it; returns its exit status."""
    import tempfile

    from autotune.watching import watch_path

    if not command:
        raise InputError("watch --: give the command to run after `--`")
    with tempfile.TemporaryDirectory(prefix="autotune-watch-") as folder:
        watcher = watch_path(Path(folder))
        console = stderr_console()
        drawn = draws(console, fmt)
        process = _start(command, folder, captured=drawn, apart=fmt is WatchFormat.json)
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT,)} | {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        }
        try:
            scene = _own_scene(watcher, " ".join(command))
            scene.over = lambda: None if process.poll() is None else "it has ended"
            with contextlib.suppress(BrokenPipeError):
                if drawn:
                    draw(scene, every or 1.0, console, process.stdout)
                else:
                    lines(scene, False, every, fmt, err=fmt is WatchFormat.table)
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            watcher.close()
    return status if status >= 0 else 128 - status


def _start(
    command: Sequence[str], folder: str, captured: bool, apart: bool
) -> subprocess.Popen[bytes]:
    """Start it; what it prints is captured, or sent to standard error, or left alone."""
    output: dict[str, Any] = {}
    if captured:
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    elif apart:
        output = {"stdout": sys.stderr}
    try:
        return subprocess.Popen(
            command,
            env={**os.environ, LIVE_VARIABLE: folder, "PYTHONUNBUFFERED": "1"},
            **output,
        )
    except OSError as error:
        raise InputError(
            f"watch --: {command[0]}: {error.strerror}. Give a program on PATH or a path"
        ) from error


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=WithCommand)(watch)
