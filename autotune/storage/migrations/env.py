"""Alembic's entry point: migrates on the connection that `autotune.storage.schema` passes in."""

from __future__ import annotations

from typing import Literal

from alembic import context

from autotune.storage.models import PREFIX, Base, UtcDateTime
from autotune.storage.schema import VERSION_TABLE


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Keep Optuna's tables, and anybody else's, out of Alembic's sight."""
    return kind != "table" or (name is not None and name.startswith(PREFIX))


def _render(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write our column type as the plain one: a migration must not change when our code does."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UtcDateTime) else False


def run() -> None:
    """Run the migrations within the caller's transaction."""
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise RuntimeError("migrations run through `autotune db upgrade`")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=_is_ours,
        render_item=_render,
        render_as_batch=True,
        transactional_ddl=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
