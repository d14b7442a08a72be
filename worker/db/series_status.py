"""What searches see of a series: its status, label and probability, derived from its jobs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select, update
from sqlalchemy.orm import Session

from worker.db.studies.opening import open_studies_of
from worker.db.tables import (
    DeliveryRow,
    DeliveryState,
    JobRow,
    JobState,
    ResultRow,
    SeriesRow,
    SeriesState,
    SeriesStatus,
    StudyRow,
    StudyState,
)


def answer_series(session: Session | Connection, series_ids: Sequence[int]) -> None:
    """Update status, label and probability of series, as searches see them, from the last job that ended.

    A refused series stays refused; a shadow job never answers. While its first job is under way a series is pending;
    an earlier answer stays visible while a later job runs. Their studies are open until they are answered, too.
    """
    for series_id in series_ids:
        last = session.execute(
            select(JobRow.id, JobRow.state, ResultRow.status, ResultRow.label, ResultRow.probability)
            .outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
            .where(JobRow.series_id == series_id, JobRow.state.in_([JobState.DONE, JobState.PARKED]))
            .where(~JobRow.shadow)
            .order_by(JobRow.id.desc())
            .limit(1)
        ).first()
        status: str = SeriesStatus.PENDING
        if last is not None:
            status = SeriesStatus.FAILED if last.state == JobState.PARKED else last.status or SeriesStatus.PENDING
        session.execute(
            update(SeriesRow)
            .where(SeriesRow.id == series_id, SeriesRow.state != SeriesState.REFUSED)
            .values(
                status=status,
                label=last.label if last else None,
                probability=last.probability if last else None,
                answered_job_id=last.id if last else None,
            )
        )
    open_studies_of(session, series_ids)


def unfinished_counts(session: Session) -> dict[str, dict[str, int]]:
    """Numbers of series, jobs and deliveries in each unfinished state: cheap among millions that are done."""
    counts = {}
    for name, column, states in (
        ("series", SeriesRow.state, (SeriesState.OPEN,)),
        ("jobs", JobRow.state, (JobState.PENDING, JobState.RUNNING, JobState.PARKED)),
        ("studies", StudyRow.state, (StudyState.OPEN, StudyState.PARKED)),
        ("deliveries", DeliveryRow.state, (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.FAILED)),
    ):
        rows = session.execute(select(column, func.count()).where(column.in_(states)).group_by(column))
        counts[name] = {state.value: 0 for state in states} | {str(state): number for state, number in rows}
    return counts
