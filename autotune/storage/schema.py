"""The version of our tables, and bringing them to the newest one with Alembic.

Optuna keeps the version of its tables in ``alembic_version``; ours is in
``autotune_alembic_version``, and our migrations see no table that does not start with
``autotune_``.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.orm import Session

from autotune.exceptions import InputError
from autotune.storage.models import PREFIX

VERSION_TABLE = f"{PREFIX}alembic_version"

_LOCK = 0x6175_746F_7475_6E65
"""Key of PostgreSQL's advisory lock that lets one process at a time migrate: "autotune"."""


def alembic_config() -> Config:
    """Alembic's configuration: the migrations of this package, no ini file."""
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The newest version that this autotune knows."""
    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if revision is None:
        raise RuntimeError("autotune is installed without its database migrations; reinstall it")
    return revision


def current(connection: Connection) -> str | None:
    """The version of the tables in the database; None if there are none of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def is_known(revision: str) -> bool:
    """Whether this autotune has the migration ``revision``."""
    script = ScriptDirectory.from_config(alembic_config())
    return any(revision == known.revision for known in script.walk_revisions())


def lock(connection: Connection) -> None:
    """Let no other process migrate until the transaction ends (SQLite's has begun IMMEDIATE)."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run the missing migrations in the connection's transaction."""
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def rewrite_version(session: Session) -> None:
    """Write what is there already: fails where the database cannot be written."""
    version = session.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    # SQLite does not write a page for a value that stays as it is.
    for value in ("", version):
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :v"), {"v": value})


def check(revision: str | None, shown: str) -> None:
    """Refuse tables of another version.

    Raises:
        InputError: if they are newer or older than this autotune's, naming the remedy.
    """
    newest = head()
    if revision is None or revision == newest:
        return
    if is_known(revision):
        raise InputError(
            f"storage {shown}: its tables have version {revision}, this autotune needs {newest}; "
            "run `autotune db upgrade` (copy the database first)"
        )
    raise InputError(
        f"storage {shown}: its tables have version {revision}, newer than the {newest} that this "
        "autotune knows; upgrade autotune, or pass another database with --storage"
    )
