"""Studies settle by what their senders have, urgent jobs come first, and the newest images say whose a study is.

What senders have of a study; jobs that are claimed first, which no earlier job is; the basis of results in shadow;
series with images of several studies, by those; when the attributes of a series changed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_URGENT = sa.text("urgent AND state = 'pending'")


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "study_count",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("series", number, nullable=True),
        sa.Column("lacking_series", number, nullable=True),
        sa.Column("lacking_instances", number, nullable=True),
        sa.PrimaryKeyConstraint("study_instance_uid", "ae_title", name=op.f("pk_study_count")),
    )
    # Without a batch: SQLite adds a column in place, and loses no check of the table.
    op.add_column("shadow_result", sa.Column("basis", sa.JSON(), nullable=True))
    op.add_column("job", sa.Column("urgent", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index(
        op.f("ix_job_not_before_id"), "job", ["not_before", "id"], postgresql_where=_URGENT, sqlite_where=_URGENT
    )
    op.create_table(
        "other_study",
        sa.Column("series_id", number, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_other_study_series_id_series")),
        sa.PrimaryKeyConstraint("series_id", "study_instance_uid", name=op.f("pk_other_study")),
    )
    op.create_index(op.f("ix_other_study_study_instance_uid"), "other_study", ["study_instance_uid"])
    op.add_column("series", sa.Column("attributes_changed_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("series", "attributes_changed_at")
    op.drop_table("other_study")
    op.drop_index(op.f("ix_job_not_before_id"), table_name="job")
    op.drop_column("job", "urgent")
    op.drop_column("shadow_result", "basis")
    op.drop_table("study_count")
