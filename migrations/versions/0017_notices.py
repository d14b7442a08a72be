"""Notices to operators."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "notice",
        sa.Column("id", number, nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(160), nullable=False),
        sa.Column("text", sa.String(1024), nullable=False),
        sa.Column("series_id", number, nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", number, nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", sa.String(192), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(64), nullable=True),
        sa.Column("detail", sa.String(1024), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'sending', 'sent')", name=op.f("ck_notice_state")),
        sa.CheckConstraint("(state = 'sending') = (lease_owner IS NOT NULL)", name=op.f("ck_notice_lease")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice")),
        sa.UniqueConstraint("channel", "event", "subject", name=op.f("uq_notice_channel_event_subject")),
    )
    op.create_index(op.f("ix_notice_channel_state_not_before"), "notice", ["channel", "state", "not_before"])


def downgrade() -> None:
    op.drop_table("notice")
