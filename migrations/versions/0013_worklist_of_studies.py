"""A row for every study, what the worklist sees of it, and readers' findings on studies.

Studies from before there were answers for them stay without; that of a single series is read as its series was.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_STEP = 5000  # rows of a statement
_ADD = (
    "INSERT INTO study (study_instance_uid, state, attempts) "
    "SELECT DISTINCT study_instance_uid, 'answered', 0 FROM series WHERE id > :after AND id <= :upto "
    "AND NOT EXISTS (SELECT 1 FROM study WHERE study.study_instance_uid = series.study_instance_uid)"
)
_OF_STUDY = "FROM series WHERE series.study_instance_uid = study.study_instance_uid"
_WITH = f"EXISTS (SELECT 1 {_OF_STUDY} AND series.status = '{{}}')"
_RESULT = "(SELECT {} FROM study_result WHERE study_result.id = study.answered_by)"
_CLASSIFIED = f"{_OF_STUDY} AND series.status = 'classified'"
_FILL = (
    f"UPDATE study SET received_at = (SELECT min(created_at) {_OF_STUDY}), "
    "status = CASE WHEN state = 'parked' THEN 'failed' "
    f"WHEN answered_by IS NOT NULL THEN {_RESULT.format('status')} "
    f"WHEN {_WITH.format('pending')} THEN 'pending' "
    f"WHEN state = 'open' AND ({_WITH.format('classified')} OR {_WITH.format('not-assessed')}) THEN 'pending' "
    f"WHEN {_WITH.format('classified')} THEN 'classified' WHEN {_WITH.format('not-assessed')} THEN 'not-assessed' "
    f"WHEN {_WITH.format('failed')} THEN 'failed' ELSE 'refused' END "
    "WHERE id > :after AND id <= :upto"
)
_FILL_LABEL = (
    "UPDATE study SET "
    f"label = CASE WHEN answered_by IS NOT NULL THEN {_RESULT.format('label')} "
    f"WHEN (SELECT count(DISTINCT label) {_CLASSIFIED}) = 1 THEN (SELECT max(label) {_CLASSIFIED}) END, "
    f"probability = CASE WHEN answered_by IS NOT NULL THEN {_RESULT.format('probability')} "
    f"WHEN (SELECT count(*) {_CLASSIFIED}) = 1 THEN (SELECT max(probability) {_CLASSIFIED}) END "
    "WHERE id > :after AND id <= :upto AND status IN ('classified', 'not-assessed')"
)
_ALONE = (
    "(SELECT count(*) FROM series AS other WHERE other.study_instance_uid = series.study_instance_uid) = 1 "
    "AND reading.id > :after AND reading.id <= :upto"
)
_ADD_READINGS = (
    "INSERT INTO study_reading (id, study_id, number, label, comment, reader, created_at) "
    "SELECT reading.id, study.id, reading.number, reading.label, reading.comment, reading.reader, reading.created_at "
    "FROM reading JOIN series ON series.id = reading.series_id "
    f"JOIN study ON study.study_instance_uid = series.study_instance_uid WHERE {_ALONE}"
)
_NAME_READINGS = (
    "UPDATE reading SET study_reading_id = id WHERE id > :after AND id <= :upto "
    "AND id IN (SELECT id FROM study_reading WHERE id > :after AND id <= :upto)"
)
_LATEST = "(SELECT label FROM study_reading WHERE study_id = study.id ORDER BY number DESC LIMIT 1)"
_FILL_READING = (
    f"UPDATE study SET read_as = {_LATEST}, read_state = CASE "
    f"WHEN {_LATEST} = label OR (label IS NULL AND {_LATEST} = 'not-assessable') THEN 'confirmed' "
    "ELSE 'corrected' END "
    "WHERE id IN (SELECT study_id FROM study_reading WHERE id > :after AND id <= :upto)"
)
_INDEXED = ("received_at", "status", "label", "read_state")


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "study_reading",
        sa.Column("id", number, nullable=False),
        sa.Column("study_id", number, nullable=False),
        sa.Column("number", number, nullable=False),
        sa.Column("study_result_id", number, nullable=True),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("comment", sa.String(length=1024), nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_reading_study_id_study")),
        sa.ForeignKeyConstraint(
            ["study_result_id"], ["study_result.id"], name=op.f("fk_study_reading_study_result_id_study_result")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_reading")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_study_reading_study_id_number")),
    )
    op.create_index(op.f("ix_study_reading_created_at"), "study_reading", ["created_at"])
    # Without a batch: SQLite adds a column in place, and loses no check of the table.
    op.add_column("reading", sa.Column("study_reading_id", number, nullable=True))
    op.add_column("study", sa.Column("received_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("study", sa.Column("status", sa.String(16), nullable=False, server_default="pending"))
    op.add_column("study", sa.Column("label", sa.String(64), nullable=True))
    op.add_column("study", sa.Column("probability", sa.Double(), nullable=True))
    op.add_column("study", sa.Column("read_state", sa.String(16), nullable=False, server_default="unread"))
    op.add_column("study", sa.Column("read_as", sa.String(64), nullable=True))
    _in_steps("series", _ADD)
    _in_steps("study", _FILL, _FILL_LABEL)
    _in_steps("reading", _ADD_READINGS, _NAME_READINGS, _FILL_READING)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SELECT setval('study_reading_id_seq', (SELECT coalesce(max(id), 0) + 1 FROM study_reading), false)")
    for columns in _indexes():
        op.create_index(op.f(f"ix_study_{'_'.join(columns)}"), "study", columns)


def downgrade() -> None:
    for columns in _indexes():
        op.drop_index(op.f(f"ix_study_{'_'.join(columns)}"), table_name="study")
    for column in ("read_as", "read_state", "probability", "label", "status", "received_at"):
        op.drop_column("study", column)
    op.drop_column("reading", "study_reading_id")
    op.drop_table("study_reading")


def _indexes() -> list[list[str]]:
    return [[*dict.fromkeys((first, "received_at", "id", "probability"))] for first in _INDEXED]


def _in_steps(table: str, *statements: str) -> None:
    """Run statements for the rows of a table, a bounded number at a time."""
    connection = op.get_bind()
    last = connection.scalar(sa.text(f"SELECT max(id) FROM {table}")) or 0
    for after in range(0, last, _STEP):
        for statement in statements:
            connection.execute(sa.text(statement), {"after": after, "upto": after + _STEP})
