"""`autotune compare`: two configurations, interleaved in fresh runs."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from autotune.cli import figures
from autotune.cli.decoders import print_decoder_table
from autotune.cli.formatting import Column, Format, JsonObject, emit_object, note, stderr_console
from autotune.cli.live import OnceObserver, run_line
from autotune.cli.options import (
    DataDirOption,
    FormatOption,
    SeedOption,
    SetOption,
    StorageOption,
    seconds,
)
from autotune.cli.stopping import StopOnSignals
from autotune.exceptions import InputError
from autotune.study.observer import StudyObserver, StudyProgress
from autotune.trial import Params, TrialResult

MIN_BLOCKS = 4
"""Fewer give no interval of a ratio worth having."""


def compare(
    a: Annotated[
        str | None,
        typer.Argument(
            metavar="A",
            help="'TARGET --flags...' in quotes, or STUDY[:TRIAL]; a study alone is its best "
            "trial, STUDY:baseline its baseline.",
            show_default=False,
        ),
    ] = None,
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="What A is compared with, likewise.", show_default=False),
    ] = None,
    data_dir: DataDirOption = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            "--blocks",
            metavar="N",
            min=1,
            help="The most blocks, one fresh run of each side, at least 4; default: 18. Six are "
            "always made, and more until the ratio is known to 2 %. Of decoders: how often each "
            "decodes all clips; default: 5.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="TIME",
            help="Time for all of it; where it is short, fewer blocks are made.",
        ),
    ] = "4m",
    max_time: Annotated[
        str | None,
        typer.Option(
            "--max-time",
            metavar="TIME",
            help="Measure at most so long in each run; default: 4s.",
            show_default=False,
        ),
    ] = None,
    decoders: Annotated[
        bool,
        typer.Option(
            "--decoders", help="Instead of A and B: seconds for the clips, for each decoder."
        ),
    ] = False,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration",
            metavar="S",
            help="Of decoders: seconds of each clip that are decoded; default: 2.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(
            "--start",
            metavar="S",
            help="Of decoders: where they begin in the clip; default: 0.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=0,
            help="Of decoders: threads of each; 0 lets it choose; default: 1.",
            show_default=False,
        ),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(
            "--clips",
            metavar="N",
            min=1,
            help="Of decoders: the most clips, chosen by the seed; default: 100.",
            show_default=False,
        ),
    ] = None,
    seed: SeedOption = None,
    overrides: SetOption = [],  # noqa: B006 - Typer copies it
    storage: StorageOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Compare two configurations by fresh runs, interleaved in random order.

    Says how many times as fast A is as B, with a 95 % interval, or that there is no
    significant difference. Both are measured here and now on the same clips; nothing is stored.
    Flags written out beside a study of the same target are measured as that study does.

    With --decoders: how long each decoder takes for the same window of the same clips, one after
    the other in one process, and why one could not be measured.

    \b
    Examples:
      autotune compare kinetics_nvdec kinetics_nvdec:baseline
      autotune compare kinetics_nvdec:12 'spdl_video --num-demux-threads 3'
      autotune compare 'spdl_video --arena pool' spdl_video --data-dir clips
      autotune compare --decoders --data-dir clips --duration 0.5
    """
    of_decoders = {
        "--duration": duration,
        "--start": start,
        "--threads": threads,
        "--clips": clips,
    }
    if decoders:
        given = {"A": a, "--max-time": max_time, "--set": overrides or None, "--storage": storage}
        _refuse(given, "with --decoders: nothing is configured or stored")
        limit = seconds(timeout, "--timeout")
        print_decoder_table(
            data_dir, duration, start, threads, clips, blocks, seed, limit=limit, fmt=fmt
        )
        return
    _refuse(of_decoders, "without --decoders")
    if a is None or b is None:
        raise InputError(
            "compare: give A and B, two configurations to compare, or --decoders "
            "(`autotune compare --help` has examples)"
        )
    if blocks is not None and blocks < MIN_BLOCKS:
        raise InputError(f"--blocks: {blocks} is not accepted; accepted: {MIN_BLOCKS} or more")
    from autotune.compare import CompareSettings, compared_figures
    from autotune.compare import compare as compare_sides
    from autotune.config import storage_url
    from autotune.sides import SHORT, read_sides
    from autotune.study.run import StopSignal

    values: dict[str, Any] = {"seed": seed}
    if data_dir is not None:
        values["target.data_dir"] = str(data_dir)
    if max_time is not None:
        longest = seconds(max_time, "--max-time")
        # The shortest time asked for must not be above the longest.
        values["measurement.max_seconds"] = longest
        values["measurement.min_seconds"] = min(SHORT["min_seconds"], longest)
    given = {key: value for key, value in values.items() if value is not None}
    chosen: dict[str, Any] = {} if blocks is None else {"blocks": blocks}
    settings = CompareSettings(timeout=seconds(timeout, "--timeout"), **chosen)
    sides = read_sides(a, b, storage=storage_url(storage), overrides=overrides, values=given)
    signal = StopSignal()
    console = stderr_console()
    with StopOnSignals(signal) as stopping:
        if console.is_terminal and not console.is_dumb_terminal:
            with OnceObserver(stopping.started, console, tells_runs=True) as view:
                stopping.tell = view.later
                outcome = compare_sides(sides, settings, observer=view, signal=signal)
        else:
            outcome = compare_sides(sides, settings, observer=_Lines(stopping), signal=signal)
    result = compared_figures(outcome).model_dump(mode="json")
    emit_object(result, _lines(), fmt)
    raise typer.Exit(_status(result, outcome.interrupted))


def _refuse(options: dict[str, Any], why: str) -> None:
    """Refuse options that would do nothing.

    Raises:
        InputError: naming the first one that was given.
    """
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name}: has no effect {why}. Leave it out")


class _Lines(StudyObserver):
    """A plain line on stderr for each run."""

    def __init__(self, stopping: StopOnSignals) -> None:
        self._stopping = stopping

    def study_started(self, *_: Any, **__: Any) -> None:
        self._stopping.started()

    def measurement_finished(
        self,
        uuid: str,
        label: str,
        params: Params,
        result: TrialResult,
        interval: tuple[float, float] | None,
        progress: StudyProgress,
    ) -> None:
        note(run_line(label, params, result, progress.num_samples))

    def note(self, message: str) -> None:
        note(message)


def _status(result: JsonObject, interrupted: bool) -> int:
    """The exit status; where there is no ratio, stderr says why."""
    if interrupted:
        note("Interrupted; what was measured is shown.")
        return 130
    if result["failure"] is not None:
        failure = result["failure"]
        note(f"Error: {result['failed_side']} failed ({failure['kind']}): {failure['cause']}")
        if failure["advice"]:
            note(failure["advice"])
        return 1
    if result["ratio"] is None:
        made = figures.counted(result["blocks"], "block")
        note(f"Error: {made} gave no ratio; raise --timeout")
        return 1
    return 0


def _lines() -> list[Column]:
    return [
        Column("A", "a", lambda row: _side_line(row, "a")),
        Column("B", "b", lambda row: _side_line(row, "b")),
        Column("result", "ratio", result_line),
        Column("note", "differences", _work_line),
        Column("measured", "blocks", _measured_line),
    ]


def _side_line(row: JsonObject, side: str) -> str:
    named = row[side]
    if row[f"{side}_trial"] is not None:
        named = f"{named} (trial {row[f'{side}_trial']}): {row[f'{side}_flags']}"
    rate = row[f"{side}_samples_per_second"]
    if rate is None:
        return f"{named}\nnot measured"
    text = figures.rate(rate, row[f"{side}_ci_low"], row[f"{side}_ci_high"])
    epoch = row[f"{side}_epoch_seconds"]
    return f"{named}\n{text}" + ("" if epoch is None else f", epoch {figures.duration(epoch)}")


def result_line(row: JsonObject) -> str:
    """What may be said of A and B: ``A is 1.43x as fast as B (1.40 to 1.46)``."""
    if row["ratio"] is None:
        return ""
    high = math.inf if row["ratio_high"] is None else row["ratio_high"]
    span = f"{row['ratio_low']:.2f} to {high:.2f}"
    if row["significant"]:
        return f"A is {row['ratio']:.2f}x as fast as B ({span})"
    return f"no significant difference: A is {row['ratio']:.2f}x as fast as B ({span})"


def _work_line(row: JsonObject) -> str:
    if not row["across_workloads"]:
        return ""
    return (
        "A and B do not do the same work, so this is a ratio across workloads (A -> B): "
        + "; ".join(row["differences"])
    )


def _measured_line(row: JsonObject) -> str:
    text = (
        f"{figures.counted(row['blocks'], 'block')} of fresh runs in "
        f"{figures.duration(row['seconds'])}"
    )
    if row["blocks_set_aside"]:
        aside = figures.counted(row["blocks_set_aside"], "block")
        text += f"; {aside} set aside as other programs disturbed them"
    if row["blocks_disturbed"]:
        kept = figures.counted(row["blocks_disturbed"], "block")
        text += f"; {kept} disturbed each time, which widens the interval"
    if not row["ended_early"]:
        return text
    return f"{text}; ended early, of {row['blocks_needed']} blocks: {row['ended_early']}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)
