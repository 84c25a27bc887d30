"""`autotune db`, `dashboard`, `doctor`, `version`: the database, the machine, this program."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from autotune.cli.formatting import Column, Format, JsonObject, emit_object, emit_rows, note
from autotune.cli.options import DataDirOption, FormatOption, StorageOption
from autotune.exceptions import InputError

db = typer.Typer(help="The database's schema.", no_args_is_help=True)


@db.command()
def upgrade(storage: StorageOption = None, fmt: FormatOption = Format.table) -> None:
    """Bring the tables of autotune to this version; Optuna's are left alone.

    Copy the database first.

    \b
    Examples:
      autotune db upgrade --storage sqlite:///autotune.db
    """
    from autotune.config import storage_url
    from autotune.storage import Database

    with Database.open(storage_url(storage), create=False, upgrade=True) as database:
        before, after = database.upgrade()
        shown = database.address.shown
    result = {"database": shown, "before": before, "after": after}
    lines = [Column("database", "database"), Column("version", "after", _upgraded)]
    emit_object(result, lines, fmt)


def _upgraded(row: JsonObject) -> str:
    if row["before"] == row["after"]:
        return f"{row['after']}; nothing to do"
    return f"{row['after']}, upgraded from {row['before'] or 'none'}"


def dashboard(
    storage: StorageOption = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="HOST", help="Address to listen on; beyond loopback only if asked."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0: any free one.")
    ] = 8080,
) -> None:
    """Serve optuna-dashboard on the database.

    Also while a study runs. Ctrl-C ends it.

    What Optuna was told of a failed trial (a penalty) is marked there by the user attribute
    autotune:penalty; `autotune trials` shows what was measured.

    \b
    Examples:
      autotune dashboard
      autotune dashboard --storage sqlite:///team.db --port 8081
    """
    from autotune.config import storage_url
    from autotune.dashboard import serve
    from autotune.storage import Database

    with Database.open(storage_url(storage), create=False) as database:
        try:
            serve(
                database,
                host,
                port,
                ready=lambda url: note(f"Listening on {url}; Ctrl-C ends it."),
            )
        except (OSError, OverflowError, socket.gaierror) as error:
            raise InputError(
                f"--host {host} --port {port}: cannot listen there ({error}); "
                "end what listens on it, or pass another --port"
            ) from error
        except KeyboardInterrupt:
            note("Ended.")


def doctor(
    storage: StorageOption = None,
    data_dir: DataDirOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """What this machine can measure, and what is missing.

    For each missing thing the remedy is named.

    Ends with status 0 if measuring on the CPU works, else 1.

    \b
    Examples:
      autotune doctor
      autotune doctor --data-dir /data/train -f json
    """
    from autotune.config import storage_url
    from autotune.doctor import examine, works

    checks = examine(storage_url(storage), data_dir)
    rows = [check.model_dump(mode="json") for check in checks]
    emit_rows(
        rows,
        [
            Column("check", "name"),
            Column("state", "state"),
            Column("found", "found", _found, fold=True),
        ],
        fmt,
    )
    if not works(checks):
        note("Measuring on the CPU does not work here; see the remedies.")
        raise typer.Exit(1)


def _found(row: JsonObject) -> str:
    return f"{row['found']}. Remedy: {row['remedy']}" if row["remedy"] else str(row["found"])


def version(fmt: FormatOption = Format.table) -> None:
    """Print the versions of autotune and of its libraries."""
    from autotune.doctor import library_versions

    found = library_versions()
    emit_object(found, [Column(name, name) for name in found], fmt)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(db, name="db")
    app.command()(dashboard)
    app.command()(doctor)
    app.command()(version)
