"""The search entries that have the words of a text: see dicom.text.folding."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select
from sqlalchemy.orm import Session

from worker.db.tables import SearchEntryRow, SearchWordRow, SeriesRow
from worker.dicom.text.folding import query_words


def few_entries(session: Session, text: str, most: int) -> Sequence[int] | None:
    """The entries that have all words of a text; None where each of its words is that of more than `most`."""
    words = query_words(text)
    if not words:
        return []
    for word in words:
        entries = session.scalars(_entries(word).limit(most + 1)).all()
        if len(entries) <= most:
            others = [_has(other) for other in words if other is not word]
            query = select(SearchEntryRow.id).where(SearchEntryRow.id.in_(entries), *others)
            return session.scalars(query).all() if others else entries
    return None


def has_words(text: str) -> ColumnElement[bool]:
    """The condition that a series has all words of a text: for series that are walked in another order."""
    return exists().where(SearchEntryRow.id == SeriesRow.search_entry_id, *map(_has, query_words(text)))


def first_entries(text: str, most: int) -> Select[int]:
    """Up to `most` entries that have a word of the text."""
    return _entries(query_words(text)[0]).limit(most)


def _entries(word: frozenset[str]) -> Select[int]:
    column = SearchWordRow.word
    begins = [and_(column >= spelled, column < spelled + "\U0010ffff") for spelled in sorted(word)]
    return select(SearchWordRow.entry_id).where(or_(*begins)).distinct()


def _has(word: frozenset[str]) -> ColumnElement[bool]:
    return or_(*[SearchEntryRow.words.contains(f" {spelled}", autoescape=True) for spelled in sorted(word)])
