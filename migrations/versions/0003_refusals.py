"""Counts of what the receivers refused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refusal",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.CheckConstraint("kind IN ('instance', 'association')", name=op.f("ck_refusal_kind")),
        sa.PrimaryKeyConstraint("kind", "status", "reason", name=op.f("pk_refusal")),
    )


def downgrade() -> None:
    op.drop_table("refusal")
