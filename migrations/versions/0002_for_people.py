"""What the page, the loop back to training and the choice of models need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_indexes_of_metrics()
    _replace_check("object", "kind", "kind IN ('report', 'picture', 'key-objects')")


def downgrade() -> None:
    op.drop_index(op.f("ix_series_status_reason"), table_name="series")
    op.drop_index(op.f("ix_delivery_destination_commitment"), table_name="delivery")
    op.execute("DELETE FROM delivery WHERE object_id IN (SELECT id FROM object WHERE kind = 'key-objects')")
    op.execute("DELETE FROM object WHERE kind = 'key-objects'")
    _replace_check("object", "kind", "kind IN ('report', 'picture')")


def _add_indexes_of_metrics() -> None:
    refused, uncommitted = sa.text("status = 'refused'"), sa.text("commitment IN ('due', 'requested')")
    op.create_index(
        op.f("ix_series_status_reason"), "series", ["status", "reason"], sqlite_where=refused, postgresql_where=refused
    )
    op.create_index(
        op.f("ix_delivery_destination_commitment"),
        "delivery",
        ["destination", "commitment"],
        sqlite_where=uncommitted,
        postgresql_where=uncommitted,
    )


def _replace_check(table: str, name: str, condition: str, *others: tuple[str, str]) -> None:
    """Give a table another CHECK. `others` (name, condition) stay: a table that SQLite makes anew loses all of them."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table(table) as batch:
        if not on_sqlite:
            batch.drop_constraint(op.f(f"ck_{table}_{name}"), type_="check")
        for one, meaning in [(name, condition), *(others if on_sqlite else ())]:
            batch.create_check_constraint(op.f(f"ck_{table}_{one}"), meaning)
