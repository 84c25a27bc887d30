"""Noise floor, ceilings, contamination, page cache and early stopping.

Version 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this version."""
    with op.batch_alter_table("autotune_studies") as table:
        table.add_column(sa.Column("noise", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("ceilings", sa.JSON(none_as_null=True), nullable=True))
    with op.batch_alter_table("autotune_measurements") as table:
        for name in ("stopped_early", "superseded"):
            table.add_column(
                sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False)
            )
        table.add_column(sa.Column("contaminated", sa.Boolean(), nullable=True))
        table.add_column(sa.Column("contamination", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("page_cache", sa.String(length=8), nullable=True))
        table.add_column(sa.Column("delivered", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("stage_ceilings", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("attempt", sa.Integer(), nullable=True))
