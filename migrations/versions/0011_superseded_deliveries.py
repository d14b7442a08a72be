"""Deliveries that are withdrawn because the images were corrected."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_STATES = "state IN ('pending', 'sending', 'delivered', 'failed'{})"


def upgrade() -> None:
    _change_states(", 'superseded'")


def downgrade() -> None:
    # An earlier worker sends none of them unless somebody retries it.
    op.execute("UPDATE delivery SET state = 'failed' WHERE state = 'superseded'")
    _change_states("")


def _change_states(more: str) -> None:
    with op.batch_alter_table("delivery") as delivery:
        delivery.drop_constraint(op.f("ck_delivery_state"), type_="check")
        delivery.create_check_constraint(op.f("ck_delivery_state"), _STATES.format(more))
