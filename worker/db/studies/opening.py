"""A study has a row as soon as an image of it is received, and is open again as soon as a series has another answer.

Each in the transaction that does so.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from worker.db.engine import upsert
from worker.db.studies.summary import summarise_studies
from worker.db.tables import SeriesRow, StudyRow, StudyState

_OPEN = {
    "state": StudyState.OPEN,
    "attempts": 0,
    "not_before": None,
    "lease_owner": None,
    "reason": None,
    "detail": None,
}


def add_studies(connection: Connection, study_instance_uids: Iterable[str]) -> None:
    """Create the studies of series that were received, where they are not known."""
    uids = sorted(set(study_instance_uids))
    statement = upsert(connection)(StudyRow)
    for uid in uids:
        row = statement.values(study_instance_uid=uid, **_OPEN)
        connection.execute(row.on_conflict_do_nothing(index_elements=["study_instance_uid"]))
    summarise_studies(connection, uids)


def open_studies(session: Session | Connection, study_instance_uids: Iterable[str]) -> None:
    """Open studies, or create them. In a fixed order, as two transactions may open the same two at once."""
    uids = sorted(set(study_instance_uids))
    if not uids:
        return
    connection = session.connection() if isinstance(session, Session) else session
    statement = upsert(connection)(StudyRow)
    for uid in uids:
        row = statement.values(study_instance_uid=uid, **_OPEN)
        connection.execute(row.on_conflict_do_update(index_elements=["study_instance_uid"], set_=_OPEN))
    summarise_studies(connection, uids)


def open_studies_of(session: Session | Connection, series_ids: Iterable[int]) -> None:
    """Open the studies of these series."""
    ids = list(series_ids)
    uids: set[str] = set()
    for start in range(0, len(ids), 500):  # SQLite limits the number of bound values
        of_series = select(SeriesRow.study_instance_uid).where(SeriesRow.id.in_(ids[start : start + 500]))
        uids |= {row.study_instance_uid for row in session.execute(of_series)}
    open_studies(session, uids)
