"""The engine, short transactions, retries, and what database errors mean to the user."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from autotune.exceptions import AutotuneError, InputError, StorageError, UnsupportedError
from autotune.storage.address import Address
from autotune.storage.redaction import redact

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_WRITES = "autotune_writes"
"""Execution option of a connection whose transaction will write."""

_DURABLE = "autotune_durable"
"""Execution option of one that writes what a power cut must not take back."""

LOG_BYTES = 64 * 2**20
"""SQLite's write-ahead log is cut back to this, once a long reader no longer keeps it growing."""

# SQLSTATE classes: connection gone, out of resources or connections, rolled back by a deadlock
# or a serialization failure, shut down or starting up.
_TRANSIENT_STATES = ("08", "40", "53", "57P")
_DISK_FULL_STATE = "53100"


_BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
"""Somebody else is at the database."""

_DISK_CODES = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
    }
)
"""The disk is full, gone or mounted read-only: a person may cure it while a study waits."""


@dataclass(frozen=True)
class Retry:
    """How often, and for how long, a write is tried again, and the waits in between."""

    attempts: int = 6
    first_delay: float = 0.2
    factor: float = 2.0
    longest_delay: float = 5.0
    seconds: float = 90.0
    """No further attempt begins after so long."""
    disk: bool = False
    """Whether to wait for a disk that is full, gone or read-only, too."""

    def delays(self) -> Iterator[float]:
        """Seconds to wait before each further attempt."""
        began = time.monotonic()
        delay = self.first_delay
        for _ in range(self.attempts - 1):
            if time.monotonic() - began >= self.seconds:
                return
            yield delay
            delay = min(self.longest_delay, delay * self.factor)


PATIENT = Retry(attempts=100, disk=True)
"""Of the driver of a study, at night and alone."""


def make_engine(address: Address) -> Engine:
    """An engine whose transactions are real ones on SQLite.

    The sqlite3 module opens no transaction before a SELECT or a CREATE; so its own handling is
    switched off. A transaction that will write begins IMMEDIATE: one that began as a reader
    and then writes is refused at once, without waiting, when another writer was faster.

    Only a durable transaction waits for the disk. The log is written in order, so whatever was
    committed before it is on the disk as well.

    Raises:
        UnsupportedError: if the database's driver is not installed.
    """
    try:
        engine = create_engine(address.url, hide_parameters=True, **address.engine_kwargs())
    except ImportError as error:
        raise UnsupportedError(
            f"storage {address.shown}: the driver {error.name!r} is not installed; "
            "install it, e.g. pip install 'psycopg[binary]'"
        ) from None
    if address.path is not None:
        tune_sqlite(engine)

        @event.listens_for(engine, "connect")
        def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys=ON")

        @event.listens_for(engine, "begin")
        def on_begin(connection: Connection) -> None:
            options = connection.get_execution_options()
            if not options.get(_WRITES):
                connection.exec_driver_sql("BEGIN")
                return
            if connection.info.get(_RELAXED):
                level = "FULL" if options.get(_DURABLE) else "NORMAL"
                connection.exec_driver_sql(f"PRAGMA synchronous={level}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


_RELAXED = "relaxed"
"""Key in a connection's info: whether its commits need not wait for the disk."""


def tune_sqlite(engine: Engine) -> None:
    """Bound the write-ahead log of an SQLite engine's connections, and let commits not wait for
    the disk: a power cut may then undo the last of them, but damages nothing.

    That holds of write-ahead logging alone; a database in another mode is left as safe as it is.
    """

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, record: Any) -> None:
        connection.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
        [mode] = connection.execute("PRAGMA journal_mode").fetchone()
        record.info[_RELAXED] = mode == "wal"
        if mode == "wal":
            connection.execute("PRAGMA synchronous=NORMAL")


class _Gone(sqlite3.OperationalError):
    """The database's file is not where it was when it was opened."""


def guard_file(engine: Engine, path: Path | None) -> None:
    """Have an SQLite engine notice that its file was moved, removed or replaced.

    SQLite would go on writing to a file that has no name any more, and make a new, empty one at
    the next connection. From here on a connection is used only while it is to the file at
    ``path``; where there is none, the error is that of a file that cannot be opened.
    """
    if path is None:
        return

    @event.listens_for(engine, "do_connect")
    def on_connect(_dialect: Any, _record: Any, _args: Any, _kwargs: Any) -> None:
        if not path.exists():
            missing = _Gone(f"the file {path} is gone")
            missing.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise missing

    @event.listens_for(engine, "checkout")
    def on_checkout(_connection: Any, record: Any, _proxy: Any) -> None:
        try:
            status = path.stat()
            file = (status.st_dev, status.st_ino)
        except OSError:
            file = None
        if file is None or record.info.setdefault("file", file) != file:
            raise DisconnectionError(f"{path} is not the file that was opened")


def database_error(error: BaseException) -> SQLAlchemyError | None:
    """The database's error in what was raised: Optuna wraps it in its own."""
    for found in (error, error.__cause__):
        if isinstance(found, SQLAlchemyError):
            return found
    return None


def is_transient(error: SQLAlchemyError, disk: bool = False) -> bool:
    """Whether the same statement may succeed later: decided by error codes, not by text.

    Args:
        disk: whether a disk that is full, gone or read-only counts.
    """
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    original = error.orig
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        return (code & 0xFF) in (_BUSY_CODES | _DISK_CODES if disk else _BUSY_CODES)
    if isinstance(original, sqlite3.Error):
        return False
    state = getattr(original, "sqlstate", None)
    if state is None:  # a server that could not be reached gives none
        return type(original).__name__ in {"OperationalError", "ConnectionTimeout"}
    return state != _DISK_FULL_STATE and str(state).startswith(_TRANSIENT_STATES)


def takes_nothing(error: SQLAlchemyError) -> bool:
    """Whether the disk is full, or the database may not be written."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorcode", -1) & 0xFF
    return _is_full(original) or code == sqlite3.SQLITE_READONLY


def _is_full(original: BaseException | None) -> bool:
    """Whether this is a database driver's error for a disk, or a quota, that is full."""
    code = getattr(original, "sqlite_errorcode", -1)
    # The index of the write-ahead log could not grow: readers need it, too.
    no_index = code == sqlite3.SQLITE_IOERR_SHMSIZE
    state = getattr(original, "sqlstate", None)
    return no_index or code & 0xFF == sqlite3.SQLITE_FULL or state == _DISK_FULL_STATE


def explain(error: SQLAlchemyError, address: Address, doing: str) -> AutotuneError:
    """The one message for a database error: what failed, where, and the remedy."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorcode", -1) & 0xFF
    where = f"storage {address.shown}"
    lines = str(original or error).strip().splitlines() or [type(error).__name__]
    said = redact(lines[0])
    if _is_full(original):
        return StorageError(
            f"{where}: the disk (or the quota) is full while {doing}; free space on it, "
            "then launch the study again: nothing measured so far is lost"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return InputError(
            f"{where}: the file is not an SQLite database; pass another file with --storage"
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return StorageError(
            f"{where}: the database file is damaged ({said}); restore a copy, "
            "or save what is readable with `sqlite3 FILE .recover`"
        )
    if code == sqlite3.SQLITE_READONLY:
        return StorageError(
            f"{where}: the database is read-only; make the file and its directory writable, "
            "or pass another one with --storage"
        )
    if code == sqlite3.SQLITE_CANTOPEN and isinstance(original, _Gone):
        return StorageError(
            f"{where}: the file is gone while {doing}; put it back, then launch the study again: "
            "nothing measured so far is lost"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return InputError(
            f"{where}: the file cannot be opened or created; check the permissions of it and "
            "of its directory, or pass another one with --storage"
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StorageError(
            f"{where}: another process kept the database locked while {doing}; "
            "end it, then try again"
        )
    if address.path is None and is_transient(error):
        return StorageError(
            f"{where}: the database server at {address.place} does not answer while {doing} "
            f"({said}); check that it runs, the host, the port, the user and the database name"
        )
    return StorageError(f"{where}: {doing} failed: {said}")


class Store:
    """An engine with short read and retried write transactions; base of all operations."""

    def __init__(self, address: Address, engine: Engine, retry: Retry) -> None:
        self.address = address
        self.engine = engine
        self._retry = retry
        self._readers = sessionmaker(engine, expire_on_commit=False)
        writing = engine.execution_options(**{_WRITES: True})
        self._writers = sessionmaker(writing, expire_on_commit=False)
        self._durable_writers = sessionmaker(
            writing.execution_options(**{_DURABLE: True}), expire_on_commit=False
        )

    @property
    def shown(self) -> str:
        """The database's address for messages, without its password."""
        return self.address.shown

    def _read(self, action: Callable[[Session], _T], doing: str = "reading") -> _T:
        """Run ``action`` in one short transaction that reads: it sees one consistent state and
        blocks no writer; retry with back-off what a retry can cure.

        Raises:
            StorageError: if the database fails.
        """

        def attempt() -> _T:
            with self._readers() as session:
                return action(session)

        try:
            return self.patiently(attempt)
        except SQLAlchemyError as error:
            raise explain(error, self.address, doing) from error

    def patiently(self, action: Callable[[], _T], *, disk: bool = True) -> _T:
        """Run ``action``, a transaction of its own; retry with back-off what a retry can cure.

        Args:
            disk: whether a driver waits for a disk that is full, gone or read-only.
        """
        delays = self._retry.delays()
        while True:
            try:
                return action()
            except Exception as error:
                cause = database_error(error)
                transient = cause is not None and is_transient(cause, disk and self._retry.disk)
                delay = next(delays, None) if transient else None
                if delay is None:
                    raise
                _log.warning(
                    "storage %s: %s, trying again in %.1f s",
                    self.shown,
                    redact(str(getattr(cause, "orig", cause)).partition("\n")[0]),
                    delay,
                )
                time.sleep(delay)

    def _write_raw(self, action: Callable[[Session], _T], *, durable: bool = False) -> _T:
        """Run ``action`` in one transaction; retry with back-off what a retry can cure.

        Args:
            durable: whether a power cut after this returns must not take it back.
        """
        writers = self._durable_writers if durable else self._writers

        def attempt() -> _T:
            with writers.begin() as session:
                return action(session)

        try:
            return self.patiently(attempt)
        except IntegrityError:
            # Another process may have inserted the same key since this one looked for it;
            # looking again, the action finds it.
            return self.patiently(attempt)

    def _write(self, action: Callable[[Session], _T], doing: str = "writing") -> _T:
        """`_write_raw` with the user's error.

        Raises:
            StorageError: if the write failed in a way that retries did not cure.
        """
        try:
            return self._write_raw(action)
        except SQLAlchemyError as error:
            raise explain(error, self.address, doing) from error

    def _now(self, session: Session) -> float:
        """Unix time by the clock that all users of this database share."""
        if self.address.path is None:
            return float(
                session.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0
            )
        return time.time()
