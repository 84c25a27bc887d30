"""Database addresses: which ones are accepted, and how they are shown without their password."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from autotune.exceptions import InputError

BUSY_SECONDS = 15.0
"""How long SQLite waits for another writer before it says "database is locked"."""

CONNECT_SECONDS = 10
"""How long a database server may take to answer."""

_ACCEPTED = (
    "sqlite:///FILE (e.g. sqlite:///autotune.db) or postgresql://USER:PASSWORD@HOST/DATABASE"
)


@dataclass(frozen=True)
class Address:
    """A database's address."""

    url: URL
    path: Path | None
    """The file of an SQLite database, absolute; None for a server."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an SQLAlchemy URL.

        Raises:
            InputError: if it is no URL, of another kind of database, or in memory.
        """
        try:
            url = make_url(text)
        except ArgumentError:
            # The text is not shown: it may hold a password in a form that was mistyped.
            raise InputError(
                f"storage: not a database URL; accepted: {_ACCEPTED}. "
                "A plain file name needs sqlite:/// in front"
            ) from None
        except ValueError:
            raise InputError(
                f"storage: the port of the URL is not a number; accepted: {_ACCEPTED}"
            ) from None
        backend = url.get_backend_name()
        if backend == "postgresql":
            if url.drivername == "postgresql":
                # SQLAlchemy 2.0 would take psycopg2 for it, 2.1 takes psycopg.
                url = url.set(drivername="postgresql+psycopg")
            return cls(url, None)
        if backend != "sqlite":
            raise InputError(f"storage: {backend!r} is not supported; accepted: {_ACCEPTED}")
        database = url.database or ""
        if database in {"", ":memory:"} or url.query.get("mode") == "memory":
            raise InputError(
                "storage: a database in memory is lost with the process; "
                "use a file, e.g. sqlite:///autotune.db"
            )
        if database.startswith("file:"):
            return cls(url, Path(database.removeprefix("file:")).absolute())
        path = Path(database).absolute()
        # Absolute, so that neither Optuna's engine nor the dashboard depends on the directory.
        return cls(url.set(database=str(path)), path)

    @property
    def shown(self) -> str:
        """The address for messages: no password."""
        if self.path is not None:
            return str(self.path)
        bare = self.url.set(query={})  # a query may hold a password, too
        return bare.render_as_string(hide_password=True)

    @property
    def place(self) -> str:
        """Host and port of a server, or the file."""
        if self.path is not None:
            return str(self.path)
        return f"{self.url.host or 'localhost'}:{self.url.port or 5432}"

    @property
    def key(self) -> str:
        """A short name of this database for files kept elsewhere; holds no secret."""
        return hashlib.sha256(self.shown.encode()).hexdigest()[:16]

    def existing(self) -> URL:
        """The URL for a database that is there: an SQLite file that is gone is not made anew."""
        if self.path is None or (self.url.database or "").startswith("file:"):
            return self.url
        query = {**self.url.query, "mode": "rw", "uri": "true"}
        return self.url.set(database=f"file:{quote(str(self.path))}", query=query)

    def engine_kwargs(self) -> dict[str, Any]:
        """Arguments of ``create_engine`` for this database, for Optuna's engine as for ours."""
        if self.path is not None:
            # ?timeout=5 in the URL counts; arguments given here would replace it.
            given = "timeout" in self.url.query
            return {"connect_args": {} if given else {"timeout": BUSY_SECONDS}}
        return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}}
