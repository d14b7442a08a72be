"""Numbers of series by status, for people: up to MANY, as counting a million takes longer than the page itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from worker.db.tables import SeriesRow, SeriesStatus
from worker.db.views.search import FEW, Search, as_stored, conditions_of
from worker.db.views.search_words import few_entries, leaves_some

MANY = 10_000  # for a person "more than" suffices; /metrics has exact numbers
_MANY_BY_COMMON_WORDS = 2_500  # of what is looked up entry by entry


@dataclass(frozen=True, slots=True)
class Tally:
    """A number of series; `more` if there are more than were counted."""

    number: int
    more: bool


def count_by_status(session: Session, search: Search) -> dict[str, Tally]:
    """Numbers of the series that match, by status, whatever status and page are searched for."""
    search = as_stored(session, replace(search, status=None, older_than=None, newer_than=None))
    most, is_cut = most_counted(session, search.text)
    conditions = conditions_of(session, search, at_most=most + 1)
    identifies = (search.text, search.patient_id, search.accession_number, search.study_instance_uid)
    if any((*identifies, search.series_instance_uid, search.label, search.sequence)):
        return _count_matches(session, conditions, most, is_cut)
    return _count_each_status(session, conditions)


def most_counted(session: Session, text: str | None) -> tuple[int, bool]:
    """Up to how many matches are counted, and whether a text has so common words that there are others."""
    if text is None or few_entries(session, text, FEW) is not None:
        return MANY, False
    most = min(MANY, _MANY_BY_COMMON_WORDS)
    return most, leaves_some(session, text, most + 1)


def _count_matches(
    session: Session, conditions: list[ColumnElement[bool]], most: int, is_cut: bool
) -> dict[str, Tally]:
    """Where an index finds the matches: up to `most` of all together; `is_cut`: there may be others."""
    matching = select(SeriesRow.status).where(*conditions).limit(most + 1).subquery()
    query = select(matching.c.status, func.count()).group_by(matching.c.status)
    numbers = {status: number for status, number in session.execute(query)}
    more = is_cut or sum(numbers.values()) > most
    return {status.value: Tally(min(numbers.get(status.value, 0), most), more) for status in SeriesStatus}


def _count_each_status(session: Session, conditions: list[ColumnElement[bool]]) -> dict[str, Tally]:
    """By the index of each status, which has the time and the probability too."""
    counts = []
    for status in SeriesStatus:
        of_status = select(SeriesRow.id).where(SeriesRow.status == status.value, *conditions).limit(MANY + 1)
        counts.append(select(func.count()).select_from(of_status.subquery()).scalar_subquery())
    numbers = session.execute(select(*counts)).one()
    return {
        status.value: Tally(min(number, MANY), number > MANY)
        for status, number in zip(SeriesStatus, numbers, strict=True)
    }
