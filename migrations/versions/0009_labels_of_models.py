"""The labels that a model may answer, to compare them with those of readers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a batch: SQLite adds a column in place, and loses no check of the table.
    op.add_column("model", sa.Column("labels", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("model", "labels")
