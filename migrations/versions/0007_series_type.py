"""What a series is by its headers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a batch: SQLite adds a column in place, and loses no check of the table.
    op.add_column("series", sa.Column("series_type", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("series", sa.Column("sequence", sa.String(length=16), nullable=True))
    op.add_column("series", sa.Column("contrast_agent", sa.String(length=8), nullable=True))
    op.add_column("series", sa.Column("plane", sa.String(length=8), nullable=True))
    op.create_index(
        op.f("ix_series_sequence_created_at_id_probability"),
        "series",
        ["sequence", "created_at", "id", "probability"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_series_sequence_created_at_id_probability"), table_name="series")
    for column in ("plane", "contrast_agent", "sequence", "series_type"):
        op.drop_column("series", column)
