"""Objects of the answers for studies, beside those of series."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("object") as objects:
        objects.alter_column("result_id", existing_type=number, nullable=True)
        objects.add_column(sa.Column("study_result_id", number, nullable=True))
        objects.create_foreign_key(
            op.f("fk_object_study_result_id_study_result"), "study_result", ["study_result_id"], ["id"]
        )
        objects.create_unique_constraint(op.f("uq_object_study_result_id_kind"), ["study_result_id", "kind"])
        objects.create_check_constraint(op.f("ck_object_result"), "(result_id IS NULL) <> (study_result_id IS NULL)")


def downgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    # An earlier worker cannot send them; the PACS keeps what has arrived.
    op.execute("DELETE FROM delivery WHERE object_id IN (SELECT id FROM object WHERE study_result_id IS NOT NULL)")
    op.execute("DELETE FROM object WHERE study_result_id IS NOT NULL")
    with op.batch_alter_table("object") as objects:
        objects.drop_constraint(op.f("ck_object_result"), type_="check")
        objects.drop_constraint(op.f("uq_object_study_result_id_kind"), type_="unique")
        objects.drop_constraint(op.f("fk_object_study_result_id_study_result"), type_="foreignkey")
        objects.drop_column("study_result_id")
        objects.alter_column("result_id", existing_type=number, nullable=False)
