"""`autotune clips extract`: clips to JPEG frames."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import figures
from autotune.cli.formatting import Column, Format, JsonObject, emit_object, note, stderr_console
from autotune.cli.options import FormatOption

if TYPE_CHECKING:
    from autotune.extraction.clip import Outcome
    from autotune.extraction.run import Extracted, Progress
    from autotune.frame_folders import ExtractionRecord

_LINE_SECONDS = 5.0
_SHOWN_FAILURES = 10


def extract(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of videos.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder to make or to go on with.", show_default=False),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="SIZE",
            help="Short side in pixels, e.g. 256 (never enlarged), or height and width, e.g. "
            "240x320. Default: as coded.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        int, typer.Option("--every", metavar="N", min=1, help="Keep one of N frames.")
    ] = 1,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="RATE",
            min=0.01,
            help="Keep at most so many frames a second. Default: all.",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        int,
        typer.Option(
            "--quality",
            metavar="Q",
            min=1,
            max=31,
            help="Of the JPEG files, 1 (best) to 31, as FFmpeg's -q:v.",
        ),
    ] = 2,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Processes. Default: one a core.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Decode every frame that is there, and extract damaged clips again."
        ),
    ] = False,
    fmt: FormatOption = Format.table,
) -> None:
    """Extract clips to JPEG frames, for the target frames.

    OUT gets a folder of frames for each clip, in the same class folders. Run again it goes on:
    clips that are complete are kept, those that failed are tried again. Exit status 1 where no
    clip could be extracted.

    \b
    Examples:
      autotune clips extract clips frames
      autotune clips extract /data/kinetics-400/train /data/frames --size 256 --quality 3
      autotune clips extract clips frames --check
    """
    from autotune.extraction.run import extract_folder
    from autotune.frame_folders import ExtractionSettings

    settings = ExtractionSettings(size=size, every=every, fps=fps, quality=quality)
    count = workers or len(os.sched_getaffinity(0))
    try:
        with _progress() as progress:
            done = extract_folder(
                directory, out, settings, workers=count, check=check, progress=progress
            )
    except KeyboardInterrupt:
        note(_how_far(out))
        raise
    emit_object(_result(out, done), _lines(), fmt)
    if not done.record.extracted:
        note("Error: no clip could be extracted.")
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows each clip as it is done: a bar on a terminal, now and then a line in a pipe. Failed
    clips are named at once."""
    console = stderr_console()
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import Progress as Bar

    with Bar(console=console, transient=True) as bar:
        task = bar.add_task("Extracting", total=None)

        def show(outcome: Outcome, record: ExtractionRecord) -> None:
            if outcome.cause is not None:
                bar.console.print(_failure(outcome), markup=False)
            tried = record.extracted + record.failed
            what = f"{figures.counted(record.frames, 'frame')}, {figures.size(record.bytes)}"
            bar.update(task, total=record.clips, completed=tried, description=what)

        yield show


class _Lines:
    """Progress in a pipe."""

    def __init__(self) -> None:
        self._shown = time.monotonic()

    def __call__(self, outcome: Outcome, record: ExtractionRecord) -> None:
        if outcome.cause is not None:
            note(_failure(outcome))
        if time.monotonic() - self._shown < _LINE_SECONDS:
            return
        self._shown = time.monotonic()
        note(
            f"{record.extracted + record.failed:,} of {figures.counted(record.clips, 'clip')}, "
            f"{figures.counted(record.frames, 'frame')}, {figures.size(record.bytes)}"
        )


def _how_far(out: Path) -> str:
    """What an interrupted run leaves behind."""
    from autotune.frame_folders import is_extracted, read_record

    if not is_extracted(out):
        return "No clip is done yet."
    record = read_record(out)
    tried = f"{record.extracted:,} of {figures.counted(record.clips, 'clip')}"
    return f"{tried} are done. Run the same command again: it goes on."


def _failure(outcome: Outcome) -> str:
    return f"{outcome.name} failed: {outcome.cause}"


def _result(out: Path, done: Extracted) -> dict[str, Any]:
    document = done.record.model_dump(exclude={"format"})
    return {"directory": str(out), **document, "failures": done.failures}


def _lines() -> list[Column]:
    return [
        Column("folder", "directory"),
        Column("source", "source"),
        Column("clips", "extracted", _clips),
        Column("frames", "frames", lambda row: f"{row['frames']:,}"),
        Column("on disk", "bytes", _size),
        Column("time", "seconds", lambda row: figures.duration(row["seconds"])),
        Column("failed", "failures", _failures),
    ]


def _clips(row: JsonObject) -> str:
    if not row["failed"]:
        return f"{row['extracted']:,}"
    return f"{row['extracted']:,} of {row['clips']:,}"


def _size(row: JsonObject) -> str:
    """What the frames take, beside what the clips take."""
    size = figures.size(row["bytes"])
    if not row["source_bytes"]:
        return size
    times = row["bytes"] / row["source_bytes"]
    return f"{size}, {times:.1f} times the {figures.size(row['source_bytes'])} of the clips"


def _failures(row: JsonObject) -> str:
    failures = list(row["failures"].items())
    lines = [f"{name}: {cause}" for name, cause in failures[:_SHOWN_FAILURES]]
    if len(failures) > _SHOWN_FAILURES:
        lines.append(f"and {len(failures) - _SHOWN_FAILURES} more")
    return "\n".join(lines)
