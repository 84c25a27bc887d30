"""`autotune clips make`, `probe` and `extract`: data to try things with, and what it is."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import figures
from autotune.cli.extract import extract
from autotune.cli.formatting import Column, Format, JsonObject, emit_object, note, stderr_console
from autotune.cli.options import FormatOption, seconds

app = typer.Typer(
    help="Make sample clips; read what a data folder holds; extract JPEG frames.",
    no_args_is_help=True,
)
app.command()(extract)


@app.command()
def make(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to make.", show_default=False)
    ],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="Clips.")] = 24,
    classes: Annotated[
        int, typer.Option("--classes", metavar="N", min=1, help="Class folders.")
    ] = 4,
    length: Annotated[
        str, typer.Option("--seconds", metavar="TIME", help="Length of a clip, e.g. 10 or 2s.")
    ] = "10",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the content.")] = 0,
    fmt: FormatOption = Format.table,
) -> None:
    """Make Kinetics-shaped sample clips: class folders of short H.264 files.

    Clips that are there already are kept, so that an interrupted run goes on.

    \b
    Examples:
      autotune clips make clips
      autotune clips make clips --count 100 --classes 10 --seconds 5
    """
    from autotune.media.clips import make_clips

    each = float(length) if _is_number(length) else seconds(length, "--seconds")
    console = stderr_console()
    if console.is_terminal:
        from rich.progress import Progress

        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("Making clips", total=count)
            paths = make_clips(
                directory,
                count,
                classes,
                seed,
                each,
                progress=lambda done, _: bar.update(task, completed=done),
            )
    else:
        paths = make_clips(directory, count, classes, seed, each)
    result = {
        "directory": str(directory),
        "clips": len(paths),
        "classes": min(classes, count),
        "seconds": each,
        "bytes": sum(path.stat().st_size for path in paths),
    }
    emit_object(result, _made_lines(), fmt)


def _made_lines() -> list[Column]:
    return [
        Column("folder", "directory"),
        Column("clips", "clips", _made),
        Column("on disk", "bytes", lambda row: figures.size(row["bytes"])),
    ]


def _made(row: JsonObject) -> str:
    folders = figures.counted(row["classes"], "class folder")
    return f"{row['clips']:,} of {figures.duration(row['seconds'])} in {folders}"


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


@app.command()
def probe(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of videos.", show_default=False)
    ],
    limit: Annotated[
        int,
        typer.Option(
            "--limit", metavar="N", min=1, help="Read at most so many clips, evenly spaced."
        ),
    ] = 2000,
    fmt: FormatOption = Format.table,
) -> None:
    """What a data folder holds: codecs, sizes, frame rates, and clips that cannot be read.

    \b
    Examples:
      autotune clips probe /data/kinetics-400/train
      autotune clips probe clips -f json
    """
    from autotune.manifest import scan
    from autotune.media.probing import probe_file, summarize

    manifest = scan(directory)
    count = min(limit, len(manifest))
    chosen = [index * len(manifest) // count for index in range(count)]
    console = stderr_console()
    infos = []
    with console.status("") if console.is_terminal else nullcontext() as status:
        for done, index in enumerate(chosen):
            if status is not None and done % 20 == 0:
                status.update(f"Reading clips: {done}/{count}")
            info = probe_file(manifest.path(index))
            infos.append(info.model_copy(update={"name": manifest.paths[index]}))
    result = {
        "directory": str(directory),
        "files": len(manifest),
        "file_bytes": manifest.total_bytes,
        "classes": len(manifest.classes),
        **summarize(infos),
    }
    emit_object(result, _probe_lines(), fmt)
    if len(result["bad"]) == count:
        note("Error: no clip could be read.")
        raise typer.Exit(1)


def _probe_lines() -> list[Column]:
    return [
        Column("folder", "directory"),
        Column("clips", "files", _files),
        Column("read", "clips", lambda r: "" if r["clips"] == r["files"] else f"{r['clips']:,}"),
        Column("length", "seconds", _length),
        *(
            Column(header, key, lambda row, key=key: _mix(row[key]))  # type: ignore[misc]
            for header, key in (
                ("codecs", "codecs"),
                ("sizes", "resolutions"),
                ("frame rates", "rates"),
                ("pixel formats", "pixel_formats"),
            )
        ),
        Column("bad", "bad", _bad),
    ]


def _files(row: JsonObject) -> str:
    folders = figures.counted(row["classes"], "class folder")
    return f"{row['files']:,} in {folders}, {figures.size(row['file_bytes'])}"


def _length(row: JsonObject) -> str:
    good = row["clips"] - len(row["bad"])
    if not good:
        return ""
    return f"{figures.duration(row['seconds'] / good)} a clip on average"


def _mix(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:8]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _bad(row: JsonObject) -> str:
    bad = list(row["bad"].items())
    lines = [f"{name}: {cause}" for name, cause in bad[:10]]
    if len(bad) > 10:
        lines.append(f"and {len(bad) - 10} more")
    return "\n".join(lines)
