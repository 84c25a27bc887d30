"""The study database: opening it, its version, and everything that can be done with it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from autotune.exceptions import AutotuneError, InputError
from autotune.storage import schema
from autotune.storage.address import Address
from autotune.storage.connection import (
    Retry,
    database_error,
    explain,
    guard_file,
    is_transient,
    make_engine,
    takes_nothing,
    tune_sqlite,
)
from autotune.storage.leases import Leases
from autotune.storage.queries import Queries
from autotune.storage.results import Results
from autotune.storage.studies import Studies
from autotune.storage.trials import Trials

if TYPE_CHECKING:
    from types import TracebackType

    from optuna.storages import RDBStorage


_T = TypeVar("_T")


class Database(Studies, Leases, Trials, Results, Queries):
    """One database with our tables beside Optuna's.

    Every operation is one short transaction; safe to use from several threads. Use it as a context
    manager, or call `close`.
    """

    _optuna: RDBStorage | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        create: bool = True,
        upgrade: bool = False,
        writable: bool = False,
        retry: Retry | None = None,
    ) -> Database:
        """Open a database by its SQLAlchemy URL.

        Args:
            create: make the file and our tables where there are none. Tables of ours that are
                missing beside Optuna's are made, too.
            upgrade: accept tables of an older version, for `upgrade`.
            writable: write to it once, so that a disk that is full or read-only is told now.
            retry: how often a write is tried again.

        Raises:
            InputError: if the URL is wrong, the file is missing (without ``create``) or is no
                database, the server does not answer, the tables have another version, or it must
                be written and its disk is full or read-only.
            UnsupportedError: if the database's driver is not installed.
            StorageError: if the database is damaged or locked.
        """
        address = Address.parse(url)
        _check_place(address, create)
        database = cls(address, make_engine(address), retry or Retry())
        try:
            database._prepare(create, upgrade, writable)
        except SQLAlchemyError as error:
            database.close()
            raise _opening_error(error, address) from error
        except BaseException:
            database.close()
            raise
        guard_file(database.engine, address.path)
        return database

    def _prepare(self, create: bool, upgrade: bool, writable: bool) -> None:
        with self.engine.connect() as connection:
            revision = schema.current(connection)
        if revision is None:
            if not create:
                raise InputError(
                    f"storage {self.address.shown}: the database holds no autotune studies; "
                    "launch a study first or pass --storage"
                )
            # Nobody waits for the disk of a study that is not there yet: its user can be asked.
            if self.address.path is not None:
                self.patiently(self._write_ahead, disk=False)
            self.patiently(self._migrate, disk=False)
        elif not upgrade:
            schema.check(revision, self.address.shown)
            if writable:
                self.patiently(self._write_something, disk=False)

    def _write_something(self) -> None:
        with self._writers.begin() as session:
            schema.rewrite_version(session)

    def _write_ahead(self) -> None:
        """Switch the file to write-ahead logging, for good: readers then never block the driver.

        Outside of a transaction, as SQLite wants it.
        """
        with self.engine.connect() as connection:
            # No statement ran yet, so SQLAlchemy's transaction has not begun on this connection.
            raw = connection.connection.driver_connection
            statement = "PRAGMA journal_mode=WAL"
            try:
                if raw is not None:
                    raw.execute(statement)
            except sqlite3.Error as error:  # not through SQLAlchemy, which would have wrapped it
                raise DBAPIError(statement, None, error) from error
        # A connection is tuned when it is made, for the mode that it finds.
        self.engine.dispose()

    def _migrate(self) -> tuple[str | None, str]:
        engine = self.engine.execution_options(autotune_writes=True)
        with engine.begin() as connection:
            schema.lock(connection)
            # Read again: another process may have migrated while this one waited for the lock.
            before = schema.current(connection)
            if before is None or schema.is_known(before):
                schema.upgrade(connection)
            return before, schema.current(connection) or ""

    def upgrade(self) -> tuple[str | None, str]:
        """Bring our tables to this autotune's version; Optuna's are left alone.

        Returns:
            the versions before and after; equal if there was nothing to do.

        Raises:
            InputError: if they are newer than this autotune.
            StorageError: if the database fails; then nothing was changed.
        """
        try:
            before, after = self._migrate()
        except SQLAlchemyError as error:
            raise explain(error, self.address, "upgrading its tables") from error
        schema.check(after, self.address.shown)
        return before, after

    def schema_version(self) -> str | None:
        """The version of our tables in the database."""
        try:
            with self.engine.connect() as connection:
                return schema.current(connection)
        except SQLAlchemyError as error:
            raise explain(error, self.address, "reading its version") from error

    def tables(self) -> list[str]:
        """The names of all tables in the database, Optuna's included."""
        try:
            return sorted(inspect(self.engine).get_table_names())
        except SQLAlchemyError as error:
            raise explain(error, self.address, "listing its tables") from error

    def optuna_storage(self) -> RDBStorage:
        """Optuna's storage on this database, as Optuna makes it: any Optuna tool can use it.

        Its operations raise StorageError where the database fails for good.

        Raises:
            InputError: if Optuna's tables are not there yet, and the disk is full or read-only.
            StorageError: if they cannot be made or have another version.
        """
        if self._optuna is None:
            from autotune.storage.optuna_storage import PatientStorage

            try:
                storage = self.patiently(
                    lambda: PatientStorage(
                        self.address.existing().render_as_string(hide_password=False),
                        self._patiently_told,
                        engine_kwargs=self.address.engine_kwargs(),
                    ),
                    disk=False,
                )
            except SQLAlchemyError as error:
                raise _opening_error(error, self.address) from error
            if self.address.path is not None:
                tune_sqlite(storage.engine)
                storage.engine.dispose()  # of the connection that made the tables
            guard_file(storage.engine, self.address.path)
            self._optuna = storage
        return self._optuna

    def _patiently_told(self, action: Callable[[], _T]) -> _T:
        """`patiently`, for Optuna: it knows nothing of our errors.

        Raises:
            StorageError: if the database failed in a way that retries did not cure.
        """
        try:
            return self.patiently(action)
        except Exception as error:
            found = database_error(error)
            if found is None:
                raise
            raise explain(found, self.address, "using Optuna's tables") from error

    def close(self) -> None:
        """Close every connection. Idempotent."""
        if self._optuna is not None:
            self._optuna.remove_session()
            self._optuna.engine.dispose()
            self._optuna = None
        self.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _opening_error(error: SQLAlchemyError, address: Address) -> AutotuneError:
    """What to tell of a database that could not be opened. It is the user who named it: a server
    that does not answer, or a disk that takes nothing, is a wrong argument to them."""
    told = explain(error, address, "opening it")
    unreachable = address.path is None and is_transient(error)
    return InputError(str(told)) if unreachable or takes_nothing(error) else told


def _check_place(address: Address, create: bool) -> None:
    """Say what is wrong with the file before SQLite says "unable to open database file".

    Raises:
        InputError: if the file is a directory, or it or its directory is missing.
    """
    path = address.path
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"storage {path}: this is a directory; name a file in it")
    if not path.parent.is_dir():
        raise InputError(
            f"storage {path}: the directory {path.parent} does not exist; create it, or pass "
            "another file with --storage"
        )
    if not path.exists() and not create:
        raise InputError(
            f"no database {path}; launch a study first or pass --storage (or set AUTOTUNE_STORAGE)"
        )
    if path.exists() and not os.access(path, os.R_OK):
        raise InputError(f"storage {path}: the file cannot be read; check its permissions")
