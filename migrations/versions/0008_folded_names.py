"""The keys of names, the words of searches, and whole texts where they are longer than their VR allows."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

from worker.dicom.text.folding import joined_words, search_words, stored_name_key

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BATCH = 500  # SQLite limits the number of bound values
_LONGEST = 512
_LENGTHS = {
    "patient_id": 64, "patient_name": 324, "accession_number": 16,
    "study_date": 8, "modality": 16, "series_description": 64,
}  # fmt: skip
_SEARCHED = ("patient_id", "patient_name", "accession_number")
_ENTRY = sa.table("search_entry", sa.column("id"), sa.column("sha256"), sa.column("words"))
_WORD = sa.table("search_word", sa.column("word"), sa.column("entry_id"))
_ROWS = sa.text(
    "SELECT id, patient_id, patient_name, accession_number FROM series WHERE id > :last ORDER BY id LIMIT :batch"
)
_KEEP = sa.text("UPDATE series SET name_key = :key, search_entry_id = :entry WHERE id = :row")


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    searched = sa.String(_LONGEST).with_variant(sa.String(_LONGEST, collation="C"), "postgresql")
    op.create_table(
        "search_entry",
        sa.Column("id", number, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_entry")),
        sa.UniqueConstraint("sha256", name=op.f("uq_search_entry_sha256")),
    )
    op.create_table(
        "search_word",
        sa.Column("word", sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql"), nullable=False),
        sa.Column("entry_id", number, nullable=False),
        sa.ForeignKeyConstraint(["entry_id"], ["search_entry.id"], name=op.f("fk_search_word_entry_id_search_entry")),
        sa.PrimaryKeyConstraint("word", "entry_id", name=op.f("pk_search_word")),
        sqlite_with_rowid=False,
    )
    # Without a batch: SQLite adds a column in place, and loses no check of the table; it limits no length.
    op.add_column("series", sa.Column("name_key", searched, nullable=False, server_default=""))
    op.add_column("series", sa.Column("search_entry_id", number, nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        for name in _LENGTHS:
            collation = "C" if name in _SEARCHED else None
            op.alter_column("series", name, type_=sa.String(_LONGEST, collation=collation), existing_nullable=False)
    _fill()
    op.create_index(op.f("ix_series_name_key"), "series", ["name_key"])
    op.create_index(op.f("ix_series_search_entry_id"), "series", ["search_entry_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_series_search_entry_id"), table_name="series")
    op.drop_index(op.f("ix_series_name_key"), table_name="series")
    if op.get_bind().dialect.name == "postgresql":
        for name, length in _LENGTHS.items():
            collation = "C" if name in _SEARCHED else None
            op.alter_column(
                "series",
                name,
                type_=sa.String(length, collation=collation),
                existing_nullable=False,
                postgresql_using=f"substr({name}, 1, {length})",
            )
    op.drop_column("series", "search_entry_id")
    op.drop_column("series", "name_key")
    op.drop_table("search_word")
    op.drop_table("search_entry")


def _fill() -> None:
    """Give the rows that exist their keys and words, a batch at a time."""
    connection = op.get_bind()
    last = 0
    while rows := connection.execute(_ROWS, {"last": last, "batch": _BATCH}).all():
        hashes = {row.id: hashlib.sha256("\0".join(row[1:]).encode()).hexdigest() for row in rows}
        known = _entries(connection, set(hashes.values()))
        new = {hashes[row.id]: row for row in rows if hashes[row.id] not in known}
        if new:
            found_by = {sha256: sorted(search_words(*row[1:])) for sha256, row in new.items()}
            added = [{"sha256": sha256, "words": joined_words(words)} for sha256, words in found_by.items()]
            connection.execute(sa.insert(_ENTRY), added)
            known |= _entries(connection, set(new))
            words = [(word, known[sha256]) for sha256, of_entry in found_by.items() for word in of_entry]
            if words:
                connection.execute(sa.insert(_WORD), [{"word": word, "entry_id": entry} for word, entry in words])
        connection.execute(
            _KEEP,
            [{"row": row.id, "key": stored_name_key(row.patient_name), "entry": known[hashes[row.id]]} for row in rows],
        )
        last = rows[-1].id


def _entries(connection: sa.Connection, hashes: set[str]) -> dict[str, int]:
    rows = connection.execute(sa.select(_ENTRY.c.sha256, _ENTRY.c.id).where(_ENTRY.c.sha256.in_(hashes)))
    return {row.sha256: row.id for row in rows}
