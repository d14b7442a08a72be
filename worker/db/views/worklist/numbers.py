"""Numbers of studies by status, counted as `tallies` counts series."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.db.tables import SeriesStatus, StudyRow
from worker.db.views import tallies
from worker.db.views.search import Search, as_stored
from worker.db.views.tallies import Tally
from worker.db.views.worklist.matching import conditions_of


def count_studies(session: Session, search: Search) -> dict[str, Tally]:
    """Numbers of the studies that match, by status, whatever status and page are searched for."""
    search = as_stored(session, replace(search, status=None, older_than=None, newer_than=None))
    many, is_cut = tallies.most_counted(session, search.text)
    conditions = conditions_of(session, search, at_most=many + 1)
    if replace(search, since=None, until=None, minimum_probability=None) == Search(limit=search.limit):
        # By the index of each status, which has the time and the probability too.
        counts = [
            select(func.count())
            .select_from(
                select(StudyRow.id).where(StudyRow.status == status.value, *conditions).limit(many + 1).subquery()
            )
            .scalar_subquery()
            for status in SeriesStatus
        ]
        numbers = dict(zip(SeriesStatus, session.execute(select(*counts)).one(), strict=True))
        return {status.value: Tally(min(number, many), number > many) for status, number in numbers.items()}
    matching = select(StudyRow.status).where(*conditions).limit(many + 1).subquery()
    query = select(matching.c.status, func.count()).group_by(matching.c.status)
    found = {status: number for status, number in session.execute(query)}
    more = is_cut or sum(found.values()) > many
    return {status.value: Tally(min(found.get(status.value, 0), many), more) for status in SeriesStatus}
