"""`autotune soak`: one configuration for hours."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import figures
from autotune.cli.formatting import Column, Format, JsonObject, emit_object, note, stderr_console
from autotune.cli.options import (
    DataDirOption,
    FormatOption,
    LiveOption,
    SeedOption,
    SetOption,
    StorageOption,
    publishing_to,
    seconds,
)
from autotune.cli.stopping import FIRST, StopOnSignals, tell_stderr
from autotune.exceptions import InputError
from autotune.study.observer import StudyObserver
from autotune.trial import Event, SampleEvent

if TYPE_CHECKING:
    from autotune.soak import SoakSample

_SHOWN = 3
"""Kinds of growing objects that a person is told of."""


def soak(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="'TARGET --flags...' in quotes, or STUDY[:TRIAL]; a study alone is its best "
            "trial.",
            show_default=False,
        ),
    ],
    duration: Annotated[
        str,
        typer.Option("--for", metavar="TIME", help="How long, e.g. 2h; at least 2m."),
    ] = "2h",
    interval: Annotated[
        str,
        typer.Option(
            "--interval",
            metavar="TIME",
            help="Time of one line in the file, and between two looks with --locate.",
        ),
    ] = "30s",
    locate: Annotated[
        bool,
        typer.Option(
            "--locate", help="Look for what grows in the processes, and name what holds it."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="JSON lines, written as it goes; default: soak-WHAT-TIME.jsonl in the working "
            "directory.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = None,
    live: LiveOption = None,
    seed: SeedOption = None,
    overrides: SetOption = [],  # noqa: B006 - Typer copies it
    storage: StorageOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Run one configuration for hours: does its rate hold, does its memory grow?

    It runs in fresh processes on this machine, under the limits of any measurement. The samples
    and the verdict go to a file; nothing is stored in the database. Exit status: 0 both hold,
    1 one does not or it failed, 130 interrupted (the verdict so far is shown).

    \b
    Examples:
      autotune soak kinetics_nvdec --for 2h
      autotune soak 'torch_dataloader --num-workers 4' --data-dir clips --for 30m --locate
    """
    from autotune.config import storage_url
    from autotune.sides import read_side
    from autotune.soak import SHORTEST_SECONDS, SoakSettings
    from autotune.soak import soak as soak_side
    from autotune.study.run import StopSignal

    length, line = seconds(duration, "--for"), seconds(interval, "--interval")
    if length < SHORTEST_SECONDS:
        raise InputError(
            f"--for: {duration} is too short to tell whether a rate or memory holds; accepted: "
            f"{SHORTEST_SECONDS / 60:g}m or more"
        )
    if line > length / 4:
        raise InputError(
            f"--interval: {interval} leaves fewer than 4 lines in --for {duration}; accepted: "
            f"{length / 4:g}s or less"
        )
    values: dict[str, Any] = {"seed": seed, "target.data_dir": data_dir and str(data_dir)}
    given = {key: value for key, value in values.items() if value is not None}
    side = read_side(what, "WHAT", storage=storage_url(storage), overrides=overrides, values=given)
    file = output or _default_file(what)
    settings = SoakSettings(length, line, locate, file)
    signal = StopSignal()
    with (
        publishing_to(live),
        StopOnSignals(signal, _tell) as stopping,
        _View(stopping, length, line, file) as view,
    ):
        outcome = soak_side(
            side, settings, observer=view, signal=signal, on_sample=view.interval_ended
        )
    result = outcome.model_dump(mode="json")
    emit_object(result, _lines(), fmt)
    raise typer.Exit(_status(result))


def _default_file(what: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", what.split()[0] if what.split() else "").strip("-")
    return Path(f"soak-{name or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")


def _tell(message: str) -> None:
    tell_stderr("Stopping; the verdict so far follows." if message == FIRST else message)


class _View(StudyObserver):
    """On a terminal one line that is redrawn; in a pipe a line an interval."""

    def __init__(self, stopping: StopOnSignals, length: float, interval: float, file: Path) -> None:
        from rich.live import Live

        self._stopping = stopping
        self._length = length
        self._begins = (
            f"Runs for {figures.duration(length)}; a line every {figures.duration(interval)} goes "
            f"to {file}."
        )
        console = stderr_console()
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
        self._begun: float | None = None
        self._rates: dict[int, float] = {}
        self._failed = 0

    def __enter__(self) -> _View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def study_started(self, *_: Any, **__: Any) -> None:
        self._stopping.started()
        note(self._begins)

    def note(self, message: str) -> None:
        note(message)

    def measurement_event(self, uuid: str, event: Event) -> None:
        if self._live is None or not isinstance(event, SampleEvent):
            return
        from rich.text import Text

        window = event.window
        self._begun = window.start if self._begun is None else self._begun
        self._rates[window.rank] = window.samples / (window.end - window.start)
        self._failed += window.failed
        shown = {
            "samples_per_second": sum(self._rates.values()),
            "memory_mib": None if event.memory_gib is None else 1024 * event.memory_gib,
            "processes": event.processes,
            "failed": self._failed,
        }
        text = _line_text(window.end - self._begun, self._length, shown)
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

    def interval_ended(self, sample: SoakSample) -> None:
        """A line of the file was written."""
        if self._live is None:
            note(_line_text(sample.seconds, self._length, sample.model_dump()))


def _line_text(done: float, length: float, sample: JsonObject) -> str:
    """``0:18:32 of 1:40:00: 144 samples/s, 812 MiB, processes: 2``."""
    text = f"{_clock(done)} of {_clock(length)}: {figures.rate(sample['samples_per_second'])}"
    if sample["memory_mib"] is not None:
        text += f", {sample['memory_mib']:,.0f} MiB, processes: {sample['processes']}"
    failed = sample["failed"]
    return f"{text}, {figures.counted(failed, 'failed sample')}" if failed else text


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds: lines half a minute apart differ also after an hour."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _status(result: JsonObject) -> int:
    failure = result["failure"]
    if failure is not None:
        note(f"Error: it failed ({failure['kind']}): {failure['cause']}")
        if result["log_tail"].strip():
            note(result["log_tail"].rstrip())
        if failure["advice"]:
            note(failure["advice"])
    if result["interrupted"]:
        return 130
    return 0 if result["holds"] else 1


def _lines() -> list[Column]:
    return [
        Column("configuration", "target", lambda r: f"{r['target']} {r['flags']}".rstrip()),
        Column("ran", "seconds", _ran),
        Column("rate", "rate", _rate),
        Column("memory", "memory", _memory),
        Column("growing", "growing", _growing),
        Column("worst interval", "worst", _worst),
        Column("failed", "failed", _failed),
        Column("file", "file"),
        Column("verdict", "holds", _verdict),
    ]


def _ran(row: JsonObject) -> str:
    samples = figures.counted(row["samples"], "sample")
    rate = figures.rate(row["samples_per_second"])
    done, asked = figures.duration(row["seconds"]), figures.duration(row["seconds_asked"])
    return f"{done} of {asked}, {samples}, {rate}"


def _rate(row: JsonObject) -> str:
    """``holds: -0.3 %/h (-1.1 to +0.5)``."""
    trend = row["rate"]
    if trend["verdict"] == "too_short":
        return "too short to tell"
    pace, low, high = (trend[name] for name in ("percent_per_hour", "low", "high"))
    return f"{trend['verdict']}: {pace:+.1f} %/h ({low:+.1f} to {high:+.1f})"


def _memory(row: JsonObject) -> str:
    text = figures.memory_trend(row["memory"])
    if row["memory_mib"] is None:
        return text
    if row["memory"]["verdict"] == "grows" and row["mib_per_1000_batches"] is not None:
        text += f", {row['mib_per_1000_batches']:.2f} MiB per 1,000 batches"
    return f"{row['memory_mib']:,.0f} MiB at the end, {row['peak_memory_mib']:,.0f} at most; {text}"


def _growing(row: JsonObject) -> str:
    return "\n".join(figures.growing(found) for found in row["growing"][:_SHOWN])


def _worst(row: JsonObject) -> str:
    worst = row["worst"]
    if worst is None:
        return ""
    return f"{figures.rate(worst['samples_per_second'])} until {figures.duration(worst['seconds'])}"


def _failed(row: JsonObject) -> str:
    """Nothing where the run failed before any was told of: its cause may speak of them."""
    if row["failure"] is not None and not row["failed"]:
        return ""
    return figures.counted(row["failed"], "sample")


def _verdict(row: JsonObject) -> str:
    problems = [
        text
        for text, found in (
            ("it failed", row["failure"] is not None),
            ("the rate falls", row["rate"]["verdict"] == "falls"),
            ("memory grows", row["memory"]["verdict"] == "grows"),
        )
        if found
    ]
    so_far = " so far" if row["interrupted"] else ""
    if problems:
        return f"does not hold{so_far}: {', '.join(problems)}"
    untold = [n for n in ("rate", "memory") if row[n]["verdict"] == "too_short"]
    if untold:
        return f"too short to tell of {' and '.join(untold)}{so_far}"
    return f"holds{so_far}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(soak)
