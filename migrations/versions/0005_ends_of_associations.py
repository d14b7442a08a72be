"""How associations ended, and by which rules a series was refused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("association") as association:
        association.add_column(sa.Column("ended", sa.String(length=16), nullable=True))
        association.create_check_constraint(op.f("ck_association_ended"), "ended IN ('released', 'aborted', 'lost')")
    op.add_column("series", sa.Column("rules", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("series", "rules")
    with op.batch_alter_table("association") as association:
        association.drop_constraint(op.f("ck_association_ended"), type_="check")
        association.drop_column("ended")
