"""Stages that an operator suspended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "suspension",
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("suspended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("suspended_by", sa.String(64), nullable=False),
        sa.CheckConstraint("stage IN ('classification', 'deliveries')", name=op.f("ck_suspension_stage")),
        sa.PrimaryKeyConstraint("stage", name=op.f("pk_suspension")),
    )


def downgrade() -> None:
    op.drop_table("suspension")
