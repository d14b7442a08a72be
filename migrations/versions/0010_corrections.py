"""The versions of an instance before corrections, and what differs in a conflict."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_KINDS = "kind IN ('instance', 'object', 'conflict'{})"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "earlier_version",
        sa.Column("id", number, nullable=False),
        sa.Column("instance_id", number, nullable=False),
        sa.Column("series_id", number, nullable=False),
        sa.Column("association_id", number, nullable=True),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("size", number, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("replaced_by", sa.String(length=64), nullable=True),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_earlier_version_instance_id_instance")),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_earlier_version_series_id_series")),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.id"], name=op.f("fk_earlier_version_association_id_association")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_earlier_version")),
    )
    op.create_index(op.f("ix_earlier_version_instance_id"), "earlier_version", ["instance_id"])
    op.create_index(op.f("ix_earlier_version_series_id"), "earlier_version", ["series_id"])
    with op.batch_alter_table("conflict") as conflict:
        conflict.add_column(sa.Column("reason", sa.String(length=32), nullable=True))
        conflict.add_column(sa.Column("decision", sa.String(length=16), nullable=True))
        conflict.add_column(sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True))
        conflict.add_column(sa.Column("decided_by", sa.String(length=64), nullable=True))
        conflict.create_check_constraint(op.f("ck_conflict_decision"), "decision IN ('accepted', 'rejected')")
    # Without a batch: SQLite adds a column in place, and loses no check of the table.
    op.add_column("series", sa.Column("corrections", number, nullable=False, server_default="0"))
    op.add_column("series", sa.Column("first_study_instance_uid", sa.String(length=64), nullable=True))
    _change_kinds(", 'earlier'")


def downgrade() -> None:
    op.execute("DELETE FROM scrub WHERE kind = 'earlier'")
    _change_kinds("")
    op.drop_column("series", "first_study_instance_uid")
    op.drop_column("series", "corrections")
    op.execute("DELETE FROM conflict WHERE decision IS NOT NULL")  # an earlier worker would miss their files
    with op.batch_alter_table("conflict") as conflict:
        conflict.drop_constraint(op.f("ck_conflict_decision"), type_="check")
        for column in ("decided_by", "decided_at", "decision", "reason"):
            conflict.drop_column(column)
    op.drop_table("earlier_version")


def _change_kinds(more: str) -> None:
    with op.batch_alter_table("scrub") as scrub:
        scrub.drop_constraint(op.f("ck_scrub_kind"), type_="check")
        scrub.create_check_constraint(op.f("ck_scrub_kind"), _KINDS.format(more))
