"""Results that the database would not take wait here, one JSON document a line.

The file lies next to an SQLite database; for a server, or where that directory cannot be
written, in ``$XDG_STATE_HOME/autotune/spool``. The measurement's uuid keeps a result that was
written after all from being doubled.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple

from autotune.storage.address import Address


class Fate(Enum):
    """What becomes of a waiting document."""

    WRITTEN = "written"
    """It is in the database."""
    WAITS = "waits"
    """The database does not take it now."""
    UNFIT = "unfit"
    """No database will take it, or another one than this."""


class Drained(NamedTuple):
    """What `Spool.drain` did."""

    written: int
    waiting: int
    unfit: list[Path]
    """The files that lines were set aside in."""


class Spool:
    """The waiting results of one database."""

    def __init__(self, address: Address) -> None:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        self._paths = [state / "autotune" / "spool" / f"{address.key}.jsonl"]
        if address.path is not None:
            self._paths.insert(0, address.path.with_name(f"{address.path.name}-spool.jsonl"))

    @property
    def waiting(self) -> list[Path]:
        """The files that hold waiting results."""
        return [path for path in self._paths if path.is_file() and path.stat().st_size > 0]

    def append(self, document: dict[str, Any]) -> Path:
        """Keep a document; it is on the disk when this returns.

        Raises:
            OSError: if none of the places can be written.
        """
        line = _line(document) + b"\n"
        failed: OSError | None = None
        for path in self._paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with _locked(path), path.open("ab+") as file:
                    before = file.seek(0, os.SEEK_END)
                    # A line torn by a kill or a full disk must not swallow this one.
                    if before and not _ends_line(file):
                        line = b"\n" + line
                    try:
                        file.write(line)
                        file.flush()
                        os.fsync(file.fileno())
                    except OSError:
                        file.truncate(before)
                        raise
                return path
            except OSError as error:
                failed = failed or error
        raise failed or OSError("no place for waiting results")

    def drain(self, write: Callable[[dict[str, Any]], Fate]) -> Drained:
        """Hand every document to ``write``, which says what becomes of it.

        What is unfit, and lines that cannot be read, go to a file beside with the ending ``.bad``,
        for a person to look at.
        """
        written = waiting = 0
        unfit: list[Path] = []
        for path in self.waiting:
            with _locked(path):
                lines: dict[Fate, list[bytes]] = {fate: [] for fate in Fate}
                for line in filter(None, path.read_bytes().splitlines()):
                    document = _parse(line)
                    lines[Fate.UNFIT if document is None else write(document)].append(line)
                written += len(lines[Fate.WRITTEN])
                waiting += len(lines[Fate.WAITS])
                # Where this fails, as on a full disk, the old file stays: what was written
                # from it is known by its uuid and not written again.
                with contextlib.suppress(OSError):
                    if lines[Fate.UNFIT]:
                        unfit.append(_set_aside(path, lines[Fate.UNFIT]))
                    _replace(path, lines[Fate.WAITS])
        return Drained(written, waiting, unfit)

    def amend(self, chosen: Callable[[dict[str, Any]], bool], **changes: Any) -> None:
        """Change waiting documents.

        Raises:
            OSError: if a file cannot be written; then it is as it was.
        """
        for path in self.waiting:
            with _locked(path):
                lines = path.read_bytes().splitlines()
                documents = [_parse(line) for line in lines]
                if not any(document is not None and chosen(document) for document in documents):
                    continue
                changed = [
                    line if document is None or not chosen(document) else _line(document | changes)
                    for line, document in zip(lines, documents, strict=True)
                ]
                _replace(path, changed)


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _set_aside(path: Path, lines: list[bytes]) -> Path:
    aside = path.with_name(f"{path.name}.bad")
    _write_lines(aside, "ab", lines)
    return aside


def _replace(path: Path, lines: list[bytes]) -> None:
    if not lines:
        path.unlink()
        return
    new = path.with_name(f"{path.name}.new")
    _write_lines(new, "wb", lines)
    new.replace(path)


def _write_lines(path: Path, mode: Literal["ab", "wb"], lines: list[bytes]) -> None:
    with path.open(mode) as file:
        file.write(b"\n".join(lines) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes (and threads) off the file; the lock ends with its holder."""
    with path.with_name(f"{path.name}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
