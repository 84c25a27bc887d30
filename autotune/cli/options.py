"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.formatting import Format
from autotune.exceptions import InputError
from autotune.publishing.publisher import LIVE_VARIABLE

if TYPE_CHECKING:
    from autotune.storage import Database

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:min|[smhd]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(min|[smhd])")

StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Database of the studies, an SQLAlchemy URL. Default: $AUTOTUNE_STORAGE, else "
        "sqlite:///autotune.db in the working directory.",
        show_default=False,
    ),
]

FormatOption = Annotated[
    Format,
    typer.Option("--format", "-f", help="How to print the result.", case_sensitive=False),
]

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="Name of the study.", show_default=False)
]

SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the experiment, e.g. measurement.max_seconds=10. Repeatable.",
        show_default=False,
    ),
]

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder of videos, or of class folders with videos.",
        show_default=False,
    ),
]

SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Seed of every random choice.")
]


LiveOption = Annotated[
    Path | None,
    typer.Option(
        "--live",
        metavar="PATH",
        help="Publish rates and queues while it runs, as JSON lines: into a folder or a named pipe "
        "that is there, or a file.",
        show_default=False,
    ),
]


@contextmanager
def publishing_to(path: Path | None) -> Iterator[None]:
    """Let the processes that are started publish there, as `LIVE_VARIABLE` asks them to.

    Raises:
        InputError: if there is no such folder.
    """
    if path is None:
        yield
        return
    if not path.parent.is_dir():
        raise InputError(f"--live: {path}: there is no folder {path.parent}; make it first")
    before = os.environ.get(LIVE_VARIABLE)
    os.environ[LIVE_VARIABLE] = str(path.absolute())
    try:
        yield
    finally:
        del os.environ[LIVE_VARIABLE]
        if before is not None:
            os.environ[LIVE_VARIABLE] = before


def seconds(text: str, option: str) -> float:
    """Seconds of a duration such as ``90s``, ``30m``, ``8h``, ``1d`` or ``1h30m``.

    Raises:
        InputError: naming ``option`` and what is accepted.
    """
    compact = text.strip().lower().replace(" ", "")
    if not _DURATION.fullmatch(compact):
        hint = f"; did you mean {compact}s, {compact}m or {compact}h?" if compact.isdigit() else ""
        raise InputError(
            f"{option}: {text!r} is not a duration; accepted: a number with s, m, h or d, "
            f"such as 90s, 30m, 8h, 1d or 1h30m{hint}"
        )
    total = sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(compact))
    if total <= 0:
        raise InputError(f"{option}: {text!r} is no time at all; accepted: more than 0s")
    return total


@contextmanager
def open_database(storage: str | None) -> Iterator[Database]:
    """The database of a query. It must exist: a mistyped file name must not make an empty one.

    Raises:
        InputError, StorageError: if it cannot be opened.
    """
    from autotune.config import storage_url
    from autotune.storage import Database

    database = Database.open(storage_url(storage), create=False)
    try:
        yield database
    finally:
        database.close()
