"""The search entries that have the words of a text: see dicom.text.folding."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, union_all
from sqlalchemy.orm import Session

from worker.db.engine import is_any_of
from worker.db.tables import SearchEntryRow, SearchWordRow, SeriesRow
from worker.dicom.text.folding import query_words

_REPEATED = 4  # rows that are read for an entry: several of its words may begin alike


def few_entries(session: Session, text: str, most: int) -> Sequence[int] | None:
    """The entries that have all words of a text; None where each of its words is that of more than about `most`."""
    words = query_words(text)
    if not words:
        return []
    for word in words:
        entries = _all_entries(session, word, most)
        if entries is not None:
            others = [_has(other) for other in words if other is not word]
            query = select(SearchEntryRow.id).where(is_any_of(session, SearchEntryRow.id, entries), *others)
            return session.scalars(query).all() if others else entries
    return None


def _all_entries(session: Session, word: frozenset[str], most: int) -> list[int] | None:
    """The entries that have a word; None where there may be more than `most`. Linear in `most`, not in the entries."""
    most_rows = _REPEATED * (most + 1)
    rows = _entries(word, most_rows)
    # Counting the rows of a common word takes a tenth of the time of fetching them.
    if session.scalar(select(func.count()).select_from(rows.subquery())) == most_rows:
        return None
    entries = list(dict.fromkeys(session.scalars(rows)))
    return entries if len(entries) <= most else None


def has_words(text: str) -> ColumnElement[bool]:
    """The condition that a series has all words of a text: for series that are walked in another order."""
    return exists().where(SearchEntryRow.id == SeriesRow.search_entry_id, *map(_has, query_words(text)))


def first_entries(text: str, most: int) -> Select[int]:
    """Up to `most` entries that have a word of the text; where its rows are many, perhaps fewer: see `leaves_some`."""
    entries = _entries(query_words(text)[0], _REPEATED * most).subquery()
    return select(entries.c.entry_id).distinct().limit(most)


def leaves_some(session: Session, text: str, most: int) -> bool:
    """Whether `first_entries` leaves out entries."""
    for spelled in query_words(text)[0]:
        next_row = select(SearchWordRow.entry_id).where(_begins(spelled)).offset(_REPEATED * most).limit(1)
        if session.scalar(next_row) is not None:
            return True
    entries = first_entries(text, most + 1).subquery()
    return (session.scalar(select(func.count()).select_from(entries)) or 0) > most


def _entries(word: frozenset[str], most: int) -> Select[int]:
    """The entry of each of up to `most` rows of a spelling of the word.

    Neither sorted nor distinct before the limit: else PostgreSQL reads every row of a common word.
    """
    spellings = [select(SearchWordRow.entry_id).where(_begins(spelled)).limit(most) for spelled in sorted(word)]
    rows = union_all(*[select(spelling.subquery().c.entry_id) for spelling in spellings]).subquery()
    return select(rows.c.entry_id)


def _begins(spelled: str) -> ColumnElement[bool]:
    return and_(SearchWordRow.word >= spelled, SearchWordRow.word < spelled + "\U0010ffff")


def _has(word: frozenset[str]) -> ColumnElement[bool]:
    return or_(*[SearchEntryRow.words.contains(f" {spelled}", autoescape=True) for spelled in sorted(word)])
