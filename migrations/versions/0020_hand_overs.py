"""Studies that are being handed over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "hand_over",
        sa.Column("id", number, nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("transaction_uid", sa.String(64), nullable=True),
        sa.Column("committed", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hand_over")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_hand_over_study_instance_uid")),
    )
    op.create_index(op.f("ix_hand_over_transaction_uid"), "hand_over", ["transaction_uid"])


def downgrade() -> None:
    op.drop_table("hand_over")
