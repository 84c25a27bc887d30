"""`autotune launch`: run or resume a study, watch it, print what it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import columns, figures
from autotune.cli.formatting import (
    Column,
    Format,
    JsonObject,
    emit_object,
    note,
    say,
    stderr_console,
)
from autotune.cli.live import LiveObserver, PlainObserver
from autotune.cli.options import (
    DataDirOption,
    FormatOption,
    SeedOption,
    SetOption,
    StorageOption,
    seconds,
)
from autotune.cli.stopping import StopOnSignals

if TYPE_CHECKING:
    from autotune.config import Experiment
    from autotune.dry_run import DryRun
    from autotune.study.launching import LaunchOutcome

EXIT_STATUS = {"finished": 0, "stopped": 0, "failed": 1, "interrupted": 130}


def launch(
    experiment: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT.yaml", help="What to tune, and for how long.", show_default=False
        ),
    ],
    study_name: Annotated[
        str | None,
        typer.Option(
            "--study-name",
            metavar="NAME",
            help="Default: the file's name without .yaml. A study that exists is resumed.",
            show_default=False,
        ),
    ] = None,
    storage: StorageOption = None,
    data_dir: DataDirOption = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="FLAGS",
            help="The flags in use today, in quotes; others are at their defaults.",
            show_default=False,
        ),
    ] = None,
    enqueue_from: Annotated[
        str | None,
        typer.Option(
            "--enqueue-from",
            metavar="STUDY",
            help="Measure the best configurations of this study right after the baseline.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", metavar="N", help="Trials in total.", show_default=False),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            help="Time in total, verification included: 90s, 30m, 8h, 1d.",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            metavar="local|ray",
            help="Where to measure.",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Ray cluster to use, or auto; default: Ray is started here.",
            show_default=False,
        ),
    ] = None,
    seed: SeedOption = None,
    overrides: SetOption = [],  # noqa: B006 - Typer copies it
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the space and the first trials; measure nothing."),
    ] = False,
    fmt: FormatOption = Format.table,
) -> None:
    """Run a study, or resume it, and verify its winner.

    Searches for the fastest configuration, then measures it against the baseline in fresh,
    interleaved runs.

    Budgets are totals over all launches. Ctrl-C finishes the measurement in flight, saves and
    ends with status 130; launch again to go on.

    \b
    Examples:
      autotune launch experiments/kinetics_nvdec.yaml --timeout 8h
      autotune launch exp.yaml --data-dir /data/train --trials 40
      autotune launch exp.yaml --baseline '--num-demux-threads 4'
      autotune launch exp.yaml --set measurement.max_seconds=10 --dry-run
    """
    from autotune.config import load_experiment

    values: dict[str, Any] = {
        "study_name": study_name,
        "target.data_dir": None if data_dir is None else str(data_dir),
        "baseline": baseline,
        "enqueue_from": enqueue_from,
        "budget.trials": trials,
        "budget.hours": None if timeout is None else seconds(timeout, "--timeout") / 3600,
        "executor.kind": executor,
        "executor.address": address,
        "seed": seed,
    }
    given = {key: value for key, value in values.items() if value is not None}
    if executor == "local" and address is None:
        given["executor.address"] = None  # the file's is that of a cluster
    read = load_experiment(experiment, overrides, given)
    name = read.study_name or experiment.stem
    if dry_run:
        _print_dry_run(read, name, storage, fmt)
        return
    outcome = _run(read, name, storage)
    _print_result(outcome, storage, read, fmt)
    raise typer.Exit(EXIT_STATUS[outcome.state])


def _run(experiment: Experiment, name: str, storage: str | None) -> LaunchOutcome:
    """Launch with a view that fits the terminal, or a pipe, and with signals heeded."""
    from autotune.config import resolve, storage_url
    from autotune.study.launching import launch_experiment
    from autotune.study.run import StopSignal

    plan = resolve(experiment)
    baseline = plan.baseline
    work = plan.searched.workload_key(baseline)
    signal = StopSignal()
    url = storage_url(storage, experiment)
    console = stderr_console()
    with StopOnSignals(signal) as stopping:
        if not console.is_terminal or console.is_dumb_terminal:
            observer = PlainObserver(baseline, stopping.started)
            return launch_experiment(
                experiment, storage=url, study_name=name, observer=observer, signal=signal
            )
        with LiveObserver(
            baseline,
            stopping.started,
            console,
            comparable=lambda params: plan.searched.workload_key(params) == work,
        ) as live:
            stopping.tell = live.later
            return launch_experiment(
                experiment, storage=url, study_name=name, observer=live, signal=signal
            )


# --------------------------------------------------------------------------- what it found


def _print_result(
    outcome: LaunchOutcome, storage: str | None, experiment: Experiment, fmt: Format
) -> None:
    from autotune.config import storage_url
    from autotune.results import study_result
    from autotune.storage import Database

    with Database.open(storage_url(storage, experiment), create=False) as database:
        result = study_result(database, outcome.record).model_dump(mode="json")
    if outcome.state == "failed":
        note(f"Error: study {result['study']!r} failed: {outcome.reason}")
    if outcome.state == "interrupted":
        note(f"Interrupted; what was measured is saved. Launch {result['study']!r} again to go on.")
    if fmt is not Format.table:
        emit_object(result, [Column("flags", "flags")], fmt)
        return
    say(f"Study {result['study']}: {figures.state(outcome.state, outcome.reason)}")
    for winner in result["winners"]:
        *told, flags = winner_lines(winner, over=outcome.state == "finished")
        for line in told:
            say(line)
        typer.echo(flags)  # to be copied: in one piece
    if result["across_workloads"]:
        say(columns.across_line(result["across_workloads"]))


def winner_lines(winner: JsonObject, over: bool = True) -> list[str]:
    """The result for one workload: what may be claimed, and the flags on a line of their own.

    Args:
        over: the study is finished, so that nothing more can be found.
    """
    trial, baseline = winner["trial"], winner["baseline"]
    lines = [f"For {winner['workload']}:"] if winner["workload"] else []
    if winner["verified"]:
        gain, _, epoch = columns.gain_line(trial).partition("\n")
        lines.append(f"Winner: trial {trial['number']}, {gain}; {epoch}")
        return [*lines, f"Flags:  {winner['flags']}"]
    if trial["origin"] == "baseline":
        rate = figures.rate(trial["samples_per_second"], trial["ci_low"], trial["ci_high"])
        found = "No configuration was faster than" if over else "Best so far is"
        lines.append(f"{found} the baseline: {rate}")
        return [*lines, f"Flags:  {winner['flags']}"]
    verification = trial["verification"]
    if verification and verification["ratio"] is not None:
        lines.append(
            f"No significant gain over the baseline: trial {trial['number']} is "
            f"{columns.gain_line(trial).removeprefix('no significant gain: ')}. "
            "Keep the baseline's flags."
        )
    else:
        ratio = columns.gain_line(trial) if baseline else ""
        ratio = ratio or "not verified, and no baseline to compare with"
        lines.append(f"Best so far: trial {trial['number']}, {ratio}")
    return [*lines, f"Flags of trial {trial['number']}: {winner['flags']}"]


# --------------------------------------------------------------------------- dry run


def _print_dry_run(experiment: Experiment, name: str, storage: str | None, fmt: Format) -> None:
    from autotune.config import storage_url
    from autotune.dry_run import dry_run

    plan = dry_run(experiment, storage=storage_url(storage, experiment))
    result = dry_run_object(plan, name)
    lines = [
        Column("study", "study"),
        Column("target", "target"),
        Column("data", "data_dir"),
        Column("configurations", "space_size", lambda r: _size(r["space_size"])),
        Column("sampler", "sampler"),
        Column("budget", "budget", _budget_line),
        Column("verification", "verification_runs", _verification_line),
        Column(
            "expected time", "expected_seconds", lambda r: figures.duration(r["expected_seconds"])
        ),
        Column("baseline", "baseline_flags"),
    ]
    emit_object(result, lines, fmt)
    if fmt is not Format.table:
        return
    from autotune.cli.formatting import table_of

    typer.echo("")
    table_of(
        result["searched"],
        [
            Column("searched", "name"),
            Column("accepted", "accepted", fold=True),
            Column("baseline", "baseline"),
        ],
    )
    typer.echo("")
    baseline = result["baseline"]
    table_of(
        result["first_trials"],
        [
            Column("first trials", "origin"),
            Column(
                "differs from the baseline",
                "params",
                lambda row: figures.changes(row["params"], baseline),
                fold=True,
            ),
        ],
    )


def dry_run_object(plan: DryRun, name: str) -> dict[str, Any]:
    """The JSON object of ``--dry-run``."""
    import shlex

    resolved = plan.plan
    space = resolved.space
    return {
        "study": name,
        "target": resolved.experiment.target.name,
        "data_dir": None if resolved.data_dir is None else str(resolved.data_dir),
        "space_size": plan.space_size,
        "searched": [
            {
                **space.parameters[key].to_dict(),
                "name": key,
                "accepted": space.parameters[key].accepted(),
                "baseline": resolved.baseline[key],
            }
            for key in plan.searched
        ],
        "sampler": plan.sampler,
        "budget": resolved.experiment.budget.model_dump(mode="json"),
        "verification_runs": plan.verification_runs,
        "expected_seconds": plan.expected_seconds,
        "baseline": resolved.baseline,
        "baseline_flags": shlex.join(space.format_flags(resolved.baseline)),
        "first_trials": [
            {"origin": origin, "params": params} for origin, params in plan.first_trials
        ],
    }


def _size(size: int | None) -> str:
    return "infinite (a searched range is continuous)" if size is None else f"{size:,}"


def _budget_line(row: JsonObject) -> str:
    budget = row["budget"]
    parts = []
    if budget.get("trials") is not None:
        parts.append(figures.counted(budget["trials"], "trial"))
    if budget.get("hours") is not None:
        parts.append(figures.duration(budget["hours"] * 3600))
    if budget.get("patience") is not None:
        parts.append(f"at most {figures.counted(budget['patience'], 'trial')} without a better one")
    return ", ".join(parts)


def _verification_line(row: JsonObject) -> str:
    runs = row["verification_runs"]
    return "none" if not runs else f"at most {figures.counted(runs, 'run')} after the search"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(launch)
