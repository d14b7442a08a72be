"""The queue: jobs that are not done and deliveries that have not arrived."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.db.tables import (
    DeliveryRow,
    DeliveryState,
    JobRow,
    JobState,
    ObjectRow,
    ResultRow,
    SeriesRow,
    StudyResultRow,
    StudyRow,
)


@dataclass(frozen=True, slots=True)
class UnfinishedJob:
    """A job that is not done; `number` is the argument of `worker jobs retry`. No report depends on a `shadow` job."""

    number: int
    series_instance_uid: str
    state: str
    attempts: int
    reason: str | None
    detail: str | None
    created_at: datetime
    not_before: datetime
    shadow: bool
    urgent: bool


@dataclass(frozen=True, slots=True)
class UnfinishedDelivery:
    """A delivery that has not arrived, of a series or, where `series_instance_uid` is None, of its study."""

    number: int
    study_instance_uid: str
    series_instance_uid: str | None
    object: str
    destination: str
    state: str
    attempts: int
    status: int | None
    reason: str | None
    detail: str | None
    not_before: datetime


@dataclass(frozen=True, slots=True)
class Unfinished:
    jobs: tuple[UnfinishedJob, ...]
    deliveries: tuple[UnfinishedDelivery, ...]


def find_unfinished(session: Session) -> Unfinished:
    """Everything unfinished, oldest first."""
    return Unfinished(tuple(unfinished_jobs(session)), tuple(unfinished_deliveries(session)))


def unfinished_jobs(
    session: Session, state: JobState | None = None, after: int = 0, limit: int | None = None
) -> list[UnfinishedJob]:
    """Jobs that are not done, oldest first, with numbers above `after`."""
    states = [state] if state else [JobState.PENDING, JobState.RUNNING, JobState.PARKED]
    rows = session.execute(
        select(JobRow, SeriesRow.series_instance_uid)
        .join(SeriesRow, SeriesRow.id == JobRow.series_id)
        .where(JobRow.state.in_(states), JobRow.id > after)
        .order_by(JobRow.id)
        .limit(limit)
    )
    return [
        UnfinishedJob(
            number=job.id,
            series_instance_uid=uid,
            state=job.state,
            attempts=job.attempts,
            reason=job.reason,
            detail=job.detail,
            created_at=job.created_at,
            not_before=job.not_before,
            shadow=job.shadow,
            urgent=job.urgent,
        )
        for job, uid in rows
    ]


def unfinished_deliveries(
    session: Session, state: DeliveryState | None = None, after: int = 0, limit: int | None = None
) -> list[UnfinishedDelivery]:
    """Deliveries that have not arrived, oldest first, with numbers above `after`."""
    states = [state] if state else [DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.FAILED]
    rows = session.execute(
        select(
            DeliveryRow,
            ObjectRow.kind,
            SeriesRow.series_instance_uid,
            func.coalesce(SeriesRow.study_instance_uid, StudyRow.study_instance_uid),
        )
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .outerjoin(ResultRow, ResultRow.id == ObjectRow.result_id)
        .outerjoin(SeriesRow, SeriesRow.id == ResultRow.series_id)
        .outerjoin(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
        .outerjoin(StudyRow, StudyRow.id == StudyResultRow.study_id)
        .where(DeliveryRow.state.in_(states), DeliveryRow.id > after)
        .order_by(DeliveryRow.id)
        .limit(limit)
    )
    return [
        UnfinishedDelivery(
            number=row.id,
            study_instance_uid=study,
            series_instance_uid=uid,
            object=kind,
            destination=row.destination,
            state=row.state,
            attempts=row.attempts,
            status=row.status,
            reason=row.reason,
            detail=row.detail,
            not_before=row.not_before,
        )
        for row, kind, uid, study in rows
    ]
