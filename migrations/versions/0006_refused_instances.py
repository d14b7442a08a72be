"""The instances that were refused, as series may lack them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "refused_instance",
        sa.Column("id", number, nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("affected_sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("association_id", number, nullable=True),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("refused_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.id"], name=op.f("fk_refused_instance_association_id_association")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refused_instance")),
        sa.UniqueConstraint(
            "series_instance_uid",
            "sop_instance_uid",
            "affected_sop_instance_uid",
            name="uq_refused_instance_uids",
        ),
    )
    op.create_index(op.f("ix_refused_instance_peer"), "refused_instance", ["peer"])
    op.create_index(op.f("ix_refused_instance_refused_at"), "refused_instance", ["refused_at"])


def downgrade() -> None:
    op.drop_table("refused_instance")
