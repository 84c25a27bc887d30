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
from pathlib import Path
from typing import Any

from autotune.storage.address import Address


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
        line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
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

    def drain(self, write: Callable[[dict[str, Any]], bool]) -> tuple[int, int]:
        """Hand every document to ``write``; those it returns False for go on waiting.

        Unreadable lines go on waiting too: they are kept for a person to look at.

        Returns:
            how many were written, and how many lines still wait.
        """
        written = kept = 0
        for path in self.waiting:
            with _locked(path):
                lines = path.read_bytes().splitlines()
                rest: list[bytes] = []
                for line in filter(None, lines):
                    document = _parse(line)
                    if document is not None and write(document):
                        written += 1
                    else:
                        rest.append(line)
                kept += len(rest)
                if not rest:
                    path.unlink()
                    continue
                # Where this fails, as on a full disk, the old file stays: what was written
                # from it is known by its uuid and not written again.
                new = path.with_name(f"{path.name}.new")
                with contextlib.suppress(OSError):
                    new.write_bytes(b"\n".join(rest) + b"\n")
                    new.replace(path)
        return written, kept


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
