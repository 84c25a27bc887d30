"""`autotune studies`, `status`, `trials` and `best`: what the database knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import columns, figures
from autotune.cli.formatting import Format, JsonObject, emit_object, emit_rows, note, say
from autotune.cli.options import FormatOption, StorageOption, StudyArgument, open_database
from autotune.exceptions import InputError
from autotune.expressions import Expression
from autotune.search_space import SearchSpace

if TYPE_CHECKING:
    from autotune.storage import BestGroup, Database, StudyRecord
    from autotune.trial import Params


def studies(storage: StorageOption = None, fmt: FormatOption = Format.table) -> None:
    """List the studies of the database, the newest first.

    \b
    Examples:
      autotune studies
      autotune studies --storage sqlite:///team.db -f json
    """
    from autotune.results import summary

    with open_database(storage) as database:
        found = [summary(database, record) for record in database.studies()]
        rows = [item.model_dump(mode="json") for item in reversed(found)]
        emit_rows(
            rows,
            columns.study_columns(),
            fmt,
            empty=f"No study in {database.address.shown} yet; `autotune launch` makes one.",
        )


def status(
    study: StudyArgument,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also what each stage reaches alone.")
    ] = False,
    storage: StorageOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """How far a study is: trials, best so far, time left.

    \b
    Examples:
      autotune status kinetics_nvdec
      autotune status kinetics_nvdec -v
      autotune status kinetics_nvdec -f json
    """
    from autotune.results import summary

    with open_database(storage) as database:
        result = summary(database, database.get_study(study))
        emit_object(result.model_dump(mode="json"), columns.status_lines(), fmt)
        if verbose and fmt is Format.table and result.ceilings is not None:
            for found in result.ceilings.workloads:
                rows = [stage.model_dump() for stage in found.stages]
                title = f"Each stage alone: {found.workload}".removesuffix(": ")
                emit_rows(rows, columns.stage_columns(), fmt, title=title)


def trials(
    study: StudyArgument, storage: StorageOption = None, fmt: FormatOption = Format.table
) -> None:
    """Every trial of a study: its figures, or why it failed.

    With -f json each failed trial has its log_tail, the end of what it printed.

    \b
    Examples:
      autotune trials kinetics_nvdec
      autotune trials kinetics_nvdec -f csv > trials.csv
    """
    from autotune.results import all_trials

    with open_database(storage) as database:
        record = database.get_study(study)
        rows: list[JsonObject] = [
            trial.model_dump(mode="json") for trial in all_trials(database, record)
        ]
        told: list[str] = []
        if fmt is Format.table:
            rows, told = columns.without_common_warnings(rows)
        emit_rows(
            rows,
            columns.trial_columns(record.baseline),
            fmt,
            empty=f"Study {study!r} has no trial yet.",
        )
        for text in told:
            note(f"In every trial: {text}.")
        for text in record.warnings:
            note(f"{text}.")


def best(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]", help="Name of the study; without it --target.", show_default=False
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many, for each group.")] = 1,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="EXPR",
            help="Only trials for which this holds: parameters and figures, "
            "e.g. 'batch_size == 16 and cpu_percent < 50'.",
            show_default=False,
        ),
    ] = None,
    per: Annotated[
        str | None,
        typer.Option(
            "--per",
            metavar="PARAM",
            help="The best for each value of a parameter.",
            show_default=False,
        ),
    ] = None,
    smallest: Annotated[
        str | None,
        typer.Option(
            "--smallest",
            metavar="FIGURE",
            help="Among the best and those within the noise floor of it, those with the least of "
            "this first, e.g. cache_gib.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="Across all studies of a target.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="With --target: only machines with this GPU, e.g. H100.",
            show_default=False,
        ),
    ] = None,
    storage: StorageOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """The best configurations, verified ones first and marked.

    Figures compare within one value of the workload parameters only (and, across studies, on one
    machine and data set), so there is a group for each. A table shows the baseline beside them.

    \b
    Examples:
      autotune best kinetics_nvdec --top 5
      autotune best kinetics_nvdec --where 'host_memory_gib < 32'
      autotune best kinetics_nvdec --per num_demux_threads
      autotune best cached --smallest cache_gib
      autotune best --target spdl_video --gpu H100
    """
    if (study is None) == (target is None):
        raise InputError(
            "best: give either the name of a study, or --target TARGET to ask across studies"
        )
    if gpu is not None and target is None:
        raise InputError("--gpu: only with --target; a study has one machine")
    if per is not None and target is not None:
        raise InputError("--per: only for the best of one study; name the study")
    if smallest is not None and target is not None:
        raise InputError("--smallest: only for the best of one study; name the study")
    condition = None if where is None else Expression.parse(where, "--where")
    with open_database(storage) as database:
        if study is not None:
            _best_of_study(database, study, top, condition, per, smallest, fmt)
            return
        groups = database.best_across(str(target), gpu=gpu, top=top, where=condition)
        _emit_groups(groups, None, fmt, top)
        if not groups:
            note(f"No figure of target {target!r}" + (" that fits." if where else "."))


def _best_of_study(
    database: Database,
    study: str,
    top: int,
    where: Expression | None,
    per: str | None,
    smallest: str | None,
    fmt: Format,
) -> None:
    from autotune.results import ALL, across_workloads, winners

    record = database.get_study(study)
    groups = database.best(record.id, top=ALL, where=where, per=per)
    _emit_groups(groups, record, fmt, top, smallest)
    if fmt is Format.table and len(groups) > 1:
        across = across_workloads(database, record, winners(database, record))
        if across is not None:
            note(columns.across_line(across.model_dump()))
    if not any(group.trials for group in groups):
        note(f"Study {study!r} has no trial with a figure" + (" that fits." if where else "."))


def _emit_groups(
    groups: list[BestGroup],
    record: StudyRecord | None,
    fmt: Format,
    top: int,
    smallest: str | None = None,
) -> None:
    """A table of the ``top`` of each group; in the other formats one list, each trial naming its
    group.

    ``record`` is the study they are of; None across studies. ``smallest`` is what the best one
    and its ties are put in order by.
    """
    from autotune.results import trial_figures
    from autotune.study.ceilings import Ceilings
    from autotune.ties import least_of_ties, ties

    across = record is None
    ceilings = None if record is None else Ceilings.of(record)
    space = None if record is None else SearchSpace.from_dict(record.space, record.name)
    everything = []
    for group in groups:
        rows = []
        tied = [] if record is None else ties(group, record)
        best = group.trials[0].number if group.trials else 0
        if record is not None and smallest is not None:
            group = least_of_ties(group, record, smallest, trial_figures)
        shown = group.trials[:top]
        for trial in shown:
            found = trial_figures(
                trial, group.baseline, tied=trial.number in tied, ceilings=ceilings
            )
            row = found.model_dump(mode="json")
            row |= {"gpu": group.gpu, "cpu": group.cpu}
            if group.per is not None:
                row |= {"per": group.per, "per_value": group.per_value}
            row["baseline"] = _baseline_object(group)
            rows.append(row)
        everything += rows
        if fmt is not Format.table:
            continue
        base = group.baseline
        if base is not None and all(trial.number != base.number for trial in shown):
            rows.append(trial_figures(base, base, ceilings=ceilings).model_dump(mode="json"))
        if base is not None:
            compared: Params | None = base.params
        else:
            compared = None if record is None else record.baseline
        shape = columns.best_columns(compared, across=across, smallest=_key(smallest, rows))
        emit_rows(rows, shape, fmt, title=_title(group, space))
        if record is not None and record.noise is not None and tied:
            say(columns.ties_line(best, tied, record.noise["floor"]))
        if ceilings is not None and (line := columns.ceiling_line(ceilings.model_dump(), rows[0])):
            say(line)
    if fmt is not Format.table:
        emit_rows(everything, columns.best_columns(None, across=across), fmt)


def _key(name: str | None, rows: list[dict[str, Any]]) -> str | None:
    """Where the rows hold a parameter or figure."""
    return f"params.{name}" if any(name in row["params"] for row in rows) else name


def _baseline_object(group: BestGroup) -> dict[str, Any] | None:
    if group.baseline is None:
        return None
    return {
        "number": group.baseline.number,
        "samples_per_second": group.baseline.samples_per_second,
        "epoch_seconds": group.baseline.epoch_seconds,
    }


def _title(group: BestGroup, space: SearchSpace | None) -> str:
    """What the trials of a group have in common, as far as another group may differ in it."""
    from autotune.results import varied_workload

    parts = []
    if group.per is not None and group.per_value is not None:
        parts.append(f"{group.per}={figures.scalar(group.per_value)}")
    if space is None:
        parts += [text for text in (group.workload_key, group.gpu, group.cpu) if text]
    else:
        parts.append(varied_workload(space, group.trials[0].params))
    return ", ".join(part for part in parts if part)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(studies)
    app.command()(status)
    app.command()(trials)
    app.command()(best)
