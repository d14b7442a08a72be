"""Stored files that were found damaged or missing, and how far the files are checked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_fault",
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("fault", sa.String(length=16), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("fault IN ('damaged', 'missing')", name=op.f("ck_file_fault_fault")),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_file_fault")),
    )
    op.create_table(
        "scrub",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("last_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('instance', 'object', 'conflict')", name=op.f("ck_scrub_kind")),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_scrub")),
    )


def downgrade() -> None:
    op.drop_table("scrub")
    op.drop_table("file_fault")
