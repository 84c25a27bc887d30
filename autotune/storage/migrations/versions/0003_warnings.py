"""What a study and a measurement have to say besides their figures.

Version 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this version."""
    for name in ("autotune_studies", "autotune_measurements"):
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("warnings", sa.JSON(none_as_null=True), nullable=True))
