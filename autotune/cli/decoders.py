"""The table of `autotune compare --decoders`."""

from __future__ import annotations

from pathlib import Path

import typer

from autotune.cli import figures
from autotune.cli.formatting import Column, Format, JsonObject, emit_rows, note
from autotune.exceptions import InputError


def print_decoder_table(
    data_dir: Path | None,
    duration: float | None,
    start: float | None,
    threads: int | None,
    clips: int | None,
    blocks: int | None,
    seed: int | None,
    *,
    limit: float,
    fmt: Format,
) -> None:
    """Measure and print; what is None is at its default.

    Raises:
        InputError: the window or the data are wrong.
        typer.Exit: with 1 where no decoder could be measured.
    """
    from autotune.decoder_table import TableSettings, decoder_table
    from autotune.media.decoders import Window

    if data_dir is None:
        raise InputError(
            "--data-dir: is missing. Give a folder of videos; `autotune clips make DIR` makes one"
        )
    usual = TableSettings()
    window = Window(
        start=usual.window.start if start is None else start,
        duration=usual.window.duration if duration is None else duration,
        threads=usual.window.threads if threads is None else threads,
    )
    if window.start < 0 or window.duration <= 0:
        name, least = ("--start", "0 or more") if window.start < 0 else ("--duration", "above 0")
        raise InputError(f"{name}: not accepted; accepted: seconds, {least}")
    settings = TableSettings(
        window=window,
        blocks=usual.blocks if blocks is None else blocks,
        clips=usual.clips if clips is None else clips,
        seed=usual.seed if seed is None else seed,
        seconds=limit,
    )
    rows = [found.model_dump(mode="json") for found in decoder_table(data_dir, settings)]
    most = max(row["clips"] for row in rows)
    title = (
        f"{figures.counted(most, 'clip')}, {window.num_frames} frames each of {window.duration:g} "
        f"s from {window.start:g} s, threads {window.threads}"
    )
    emit_rows(rows, _columns(most), fmt, title=title)
    if most == 0:
        note("Error: no decoder could be measured; the table says why")
        raise typer.Exit(1)


def _columns(most: int) -> list[Column]:
    return [
        Column("decoder", "decoder"),
        Column("seconds", "seconds", lambda row: _seconds(row["seconds"]), "right"),
        Column("least", "seconds_min", lambda row: _seconds(row["seconds_min"]), "right"),
        Column("most", "seconds_max", lambda row: _seconds(row["seconds_max"]), "right"),
        Column(
            "clips/s", "clips_per_second", lambda r: figures.number(r["clips_per_second"]), "right"
        ),
        Column("decoded", "decoded_frames", _frames, "right"),
        Column("note", "unavailable", lambda row: _note(row, most), fold=True),
    ]


def _seconds(value: float | None) -> str:
    return figures.UNKNOWN if value is None else f"{value:.3f}"


def _frames(row: JsonObject) -> str:
    return f"{row['decoded_frames']:,}" if row["seconds"] is not None else figures.UNKNOWN


def _note(row: JsonObject, most: int) -> str:
    if row["unavailable"]:
        why = row["unavailable"].removeprefix(f"decoder: {row['decoder']}: ")
        return f"not measured: {why}"
    if not row["failed"]:
        return ""
    first = row["failed_clips"][0]
    short = "" if row["clips"] == most else ", so its time is for fewer clips"
    return (
        f"{figures.counted(row['failed'], 'clip')} failed{short}: {first['name']}: {first['cause']}"
    )
