"""`autotune export`: the winning flags, ready to paste."""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.formatting import note
from autotune.cli.options import StorageOption, StudyArgument, open_database
from autotune.exceptions import InputError


class ExportKind(StrEnum):
    """What an export is written as."""

    flags = "flags"
    json = "json"
    yaml = "yaml"
    env = "env"
    argfile = "argfile"


def export(
    study: StudyArgument,
    trial: Annotated[
        int | None,
        typer.Option(
            "--trial", metavar="N", help="Default: the verified winner.", show_default=False
        ),
    ] = None,
    fmt: Annotated[
        ExportKind, typer.Option("--format", "-f", help="What to write.", case_sensitive=False)
    ] = ExportKind.flags,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Default: standard output.", show_default=False
        ),
    ] = None,
    unverified: Annotated[
        bool,
        typer.Option("--unverified", help="Also what was not verified against the baseline."),
    ] = False,
    storage: StorageOption = None,
) -> None:
    """The winning flags of a study, ready to paste.

    Only a verified winner is exported, unless --unverified.

    \b
    Examples:
      python train.py $(autotune export kinetics_nvdec)
      autotune export kinetics_nvdec -f argfile -o winner.args
      autotune export kinetics_nvdec --trial 12 --unverified -f json
    """
    from autotune.results import export_study

    with open_database(storage) as database:
        record = database.get_study(study)
        text = export_study(database, record, fmt.value, trial=trial, unverified=unverified)
    if output is None:
        typer.echo(text, nl=False)
        return
    _write(output, text)
    note(f"Wrote {output}.")


def _write(path: Path, text: str) -> None:
    """Write beside and rename: a reader sees a whole file or none.

    Raises:
        InputError: if the file cannot be written.
    """
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            # mkstemp makes it private; a new file has the permissions of any other.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(draft, 0o666 & ~mask)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise InputError(
            f"--output {path}: cannot be written ({error.strerror}); name a file in a folder "
            "that exists and that you may write to"
        ) from error


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)
