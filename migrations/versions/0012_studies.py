"""Studies, the answers for them, and on what the answer for a series rests. Earlier studies stay without an answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "study",
        sa.Column("id", number, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", number, nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.String(length=1024), nullable=True),
        sa.Column("answered_by", number, nullable=True),
        sa.CheckConstraint("state IN ('open', 'answered', 'parked')", name=op.f("ck_study_state")),
        sa.CheckConstraint("state = 'open' OR lease_owner IS NULL", name=op.f("ck_study_lease")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    op.create_index(op.f("ix_study_state_id"), "study", ["state", "id"])
    op.create_table(
        "study_result",
        sa.Column("id", number, nullable=False),
        sa.Column("study_id", number, nullable=False),
        sa.Column("number", number, nullable=False),
        sa.Column("model_id", number, nullable=False),
        sa.Column("input_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("probabilities", sa.JSON(), nullable=False),
        sa.Column("lesion_probability", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.String(length=1024), nullable=True),
        sa.Column("contradiction", sa.String(length=1024), nullable=True),
        sa.Column("deciding", sa.String(length=64), nullable=True),
        sa.Column("contributions", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('classified', 'not-assessed')", name=op.f("ck_study_result_status")),
        sa.CheckConstraint("(status = 'classified') = (reason IS NULL)", name=op.f("ck_study_result_reason")),
        sa.CheckConstraint(
            "probability IS NULL OR probability BETWEEN 0 AND 1", name=op.f("ck_study_result_probability")
        ),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_result_study_id_study")),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_study_result_model_id_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_result")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_study_result_study_id_number")),
    )
    # Without a batch: SQLite adds a column in place, and loses no check of the table.
    op.add_column("result", sa.Column("basis", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("result", "basis")
    op.drop_table("study_result")
    op.drop_table("study")
