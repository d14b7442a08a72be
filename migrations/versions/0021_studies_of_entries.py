"""An index that finds the studies of a search entry without reading the rows of their series."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_BEFORE, _AFTER = "ix_series_search_entry_id", "ix_series_search_entry_id_study_instance_uid"


def upgrade() -> None:
    op.create_index(op.f(_AFTER), "series", ["search_entry_id", "study_instance_uid"])
    op.drop_index(op.f(_BEFORE), table_name="series")


def downgrade() -> None:
    op.create_index(op.f(_BEFORE), "series", ["search_entry_id"])
    op.drop_index(op.f(_AFTER), table_name="series")
