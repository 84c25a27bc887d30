"""`autotune stop`: ends a study that another process drives."""

from __future__ import annotations

import typer

from autotune.cli.formatting import Column, Format, emit_object, note
from autotune.cli.options import FormatOption, StorageOption, StudyArgument, open_database


def stop(
    study: StudyArgument, storage: StorageOption = None, fmt: FormatOption = Format.table
) -> None:
    """Ask a running study to end after the measurement in flight.

    Its launch saves and ends with status 0, wherever it runs; launch it again to go on. Does
    not wait for that. A study that does not run is left as it is.

    \b
    Examples:
      autotune stop kinetics_nvdec
      autotune stop kinetics_nvdec --storage sqlite:///team.db
    """
    from autotune.results import state_now

    with open_database(storage) as database:
        state, reason = state_now(database, database.get_study(study))
        asked = state == "running" and database.request_stop(study)
    lines = [Column("study", "study"), Column("state", "state"), Column("asked", "asked")]
    emit_object({"study": study, "state": state, "asked": asked}, lines, fmt)
    if asked:
        note(f"It ends after the measurement in flight; `autotune status {study}` tells when.")
    else:
        note("It does not run, so nothing was asked" + (f": {reason}." if reason else "."))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(stop)
