"""`autotune measure`: one configuration, measured as a trial would be."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from autotune.cli import figures
from autotune.cli.formatting import Column, Format, JsonObject, emit_object, note, stderr_console
from autotune.cli.live import OnceObserver
from autotune.cli.options import (
    DataDirOption,
    FormatOption,
    LiveOption,
    SeedOption,
    SetOption,
    publishing_to,
    seconds,
)
from autotune.cli.stopping import StopOnSignals
from autotune.study.observer import StudyObserver

LOCATE_SECONDS = 120.0
LOCATE_INTERVAL = 5.0
"""Seconds of a measurement with ``--locate``, and between two looks in it."""


def measure(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET [--flags of the target]",
            help="What to measure, e.g. spdl_video; then its flags as in production.",
            show_default=False,
        ),
    ],
    data_dir: DataDirOption = None,
    consumer: Annotated[
        str | None,
        typer.Option(
            "--consumer",
            metavar="KIND",
            help="What takes the batches: none, paced or train_step.",
            show_default=False,
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", metavar="N", help="Copies that run together.", show_default=False),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            "--max-time",
            metavar="TIME",
            help="Measure at most so long, e.g. 30s.",
            show_default=False,
        ),
    ] = None,
    locate: Annotated[
        bool,
        typer.Option(
            "--locate",
            help="Look for what grows in the processes, and name what holds it. Measures for the "
            "whole of --max-time, 2m by default.",
        ),
    ] = False,
    live: LiveOption = None,
    seed: SeedOption = None,
    overrides: SetOption = [],  # noqa: B006 - Typer copies it
    fmt: FormatOption = Format.table,
) -> None:
    """Measure one configuration as a trial would be.

    It runs in fresh processes on this machine; nothing is stored. Parameters that
    no flag names are at their defaults.

    \b
    Examples:
      autotune measure spdl_video --data-dir clips --num-demux-threads 3
      autotune measure spdl_video --data-dir clips --set target.num_frames=8
      autotune measure spdl_video --data-dir clips --consumer train_step -f json
    """
    from autotune.measure import measure as measure_once
    from autotune.measure import measure_experiment, measured_figures
    from autotune.study.run import StopSignal

    values: dict[str, Any] = {
        "target.data_dir": None if data_dir is None else str(data_dir),
        "target.consumer.kind": consumer,
        "target.ranks": ranks,
        "measurement.max_seconds": None if max_time is None else seconds(max_time, "--max-time"),
        "seed": seed,
    }
    given = {key: value for key, value in values.items() if value is not None}
    if "measurement.max_seconds" in given:
        # The shortest time asked for must not be above the longest.
        given["measurement.min_seconds"] = min(3.0, given["measurement.max_seconds"])
    if locate:
        given.setdefault("measurement.max_seconds", LOCATE_SECONDS)
        given["measurement.min_seconds"] = given["measurement.max_seconds"]
    experiment = measure_experiment(target, context.args, overrides, given)
    looks = LOCATE_INTERVAL if locate else None
    signal = StopSignal()
    console = stderr_console()
    with publishing_to(live), StopOnSignals(signal) as stopping:
        if console.is_terminal and not console.is_dumb_terminal:
            with OnceObserver(stopping.started, console) as view:
                stopping.tell = view.later
                outcome = measure_once(
                    experiment, observer=view, signal=signal, locate_seconds=looks
                )
        else:
            quiet = _Quiet(stopping)
            outcome = measure_once(experiment, observer=quiet, signal=signal, locate_seconds=looks)
    if outcome.result.state == "stopped":
        note("Interrupted; the measurement was stopped.")
        raise typer.Exit(130)
    result = measured_figures(outcome).model_dump(mode="json")
    emit_object(result, _lines(), fmt)
    if outcome.result.state != "finished":
        _explain(result)
        raise typer.Exit(1)


class _Quiet(StudyObserver):
    """Tells nothing but what the user should know."""

    def __init__(self, stopping: StopOnSignals) -> None:
        self._stopping = stopping

    def study_started(self, *_: Any, **__: Any) -> None:
        self._stopping.started()

    def note(self, message: str) -> None:
        note(message)


def _explain(result: JsonObject) -> None:
    failure = result["failure"] or {"kind": "crash", "cause": "no result", "advice": ""}
    note(f"Error: the measurement failed ({failure['kind']}): {failure['cause']}")
    if result["log_tail"].strip():
        note(result["log_tail"].rstrip())
    if failure["advice"]:
        note(failure["advice"])


def _lines() -> list[Column]:
    return [
        Column("target", "target"),
        Column("parameters", "params", lambda r: figures.changes(r["params"], None)),
        Column(
            "rate",
            "samples_per_second",
            lambda r: figures.rate(r["samples_per_second"], r["ci_low"], r["ci_high"]),
        ),
        Column("epoch", "epoch_seconds", lambda r: figures.duration(r["epoch_seconds"])),
        Column("frames", "fps", _frames),
        Column("first batch", "time_to_first_batch", _first_batch),
        Column("accelerator", "accelerator_utilization", _accelerator),
        Column("CPU", "cpu_percent", lambda r: _with_unit(r["cpu_percent"], "% of the machine")),
        Column("memory", "host_memory_gib", lambda r: _with_unit(r["host_memory_gib"], "GiB")),
        Column("memory trend", "memory", lambda r: _trend(r["memory"])),
        Column("growing", "growing", lambda r: "\n".join(map(figures.growing, r["growing"]))),
        Column("cache", "cache_gib", _cache),
        Column("GPU memory", "gpu_memory_gib", lambda r: _with_unit(r["gpu_memory_gib"], "GiB")),
        Column("SM", "sm_percent", lambda r: _with_unit(r["sm_percent"], "%")),
        Column("NVDEC", "nvdec_percent", lambda r: _with_unit(r["nvdec_percent"], "%")),
        Column("failed", "failed", _failed),
        Column("delivered", "delivered", _delivered),
        Column("page cache", "page_cache", lambda r: r["page_cache"] or ""),
        Column("measured", "seconds", _measured),
        Column("warning", "warnings", lambda r: "\n".join(r["warnings"])),
    ]


def _cache(row: JsonObject) -> str:
    if row["cache_gib"] is None:
        return ""
    peak, mean = (figures.memory(row[name]) for name in ("cache_gib", "cache_mean_gib"))
    return f"{peak} at most, {mean} on average"


def _trend(trend: JsonObject | None) -> str:
    """Nothing where the measurement is too short to tell, as most are."""
    return "" if trend is None or trend["verdict"] == "too_short" else figures.memory_trend(trend)


def _with_unit(value: float | None, unit: str) -> str:
    return figures.UNKNOWN if value is None else f"{figures.number(value)} {unit}"


def _frames(row: JsonObject) -> str:
    if row["fps"] is None:
        return ""
    parts = [f"{figures.number(row['fps'])} fps"]
    if row["decoded_fps"] is not None:
        parts.append(f"{figures.number(row['decoded_fps'])} decoded fps")
    if row["unique_frames"] is not None:
        parts.append(f"{row['unique_frames']:.1f} different ones a sample")
    return ", ".join(parts)


def _first_batch(row: JsonObject) -> str:
    return figures.duration(row["time_to_first_batch"])


def _accelerator(row: JsonObject) -> str:
    value = row["accelerator_utilization"]
    return figures.UNKNOWN if value is None else f"{100 * value:.0f} % busy"


def _failed(row: JsonObject) -> str:
    if not row["failed"]:
        return ""
    names = "; ".join(f"{clip['name']}: {clip['cause']}" for clip in row["failed_clips"][:3])
    return f"{figures.counted(row['failed'], 'sample')} ({names})"


def _delivered(row: JsonObject) -> str:
    seen = row["delivered"]
    if seen is None:
        return ""
    shape = " x ".join(map(str, seen["shape"]))
    return f"samples of {shape}, {seen['dtype']}, on {seen['device']}"


def _measured(row: JsonObject) -> str:
    if row["seconds"] is None:
        return ""
    steady = "" if row["steady"] else ", not steady"
    return (
        f"{figures.duration(row['seconds'])} after {figures.duration(row['warmup_seconds'])} "
        f"of warm-up{steady}"
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(measure)
