"""Rows of series: locked while they settle, refused or queued, emptied by retention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from worker.db.instances import input_sha256, instances_of
from worker.db.tables import (
    DETAIL_LENGTH,
    Commitment,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JobState,
    ObjectRow,
    ResultRow,
    SeriesRow,
    SeriesState,
    SeriesStatus,
)


def lock_open_series(session: Session, series_id: int, not_after: datetime) -> SeriesRow | None:
    """Lock a series if it is still open and silent since `not_after`; a late instance waits for our commit."""
    return session.scalar(
        select(SeriesRow)
        .where(SeriesRow.id == series_id, SeriesRow.state == SeriesState.OPEN)
        .where(SeriesRow.last_received_at <= not_after)
        .with_for_update()
    )


def refuse_series(series: SeriesRow, reason: str, detail: str, now: datetime) -> None:
    series.state, series.reason, series.detail = SeriesState.REFUSED, reason, detail[:DETAIL_LENGTH]
    series.settled_at = now
    series.status, series.label, series.probability = SeriesStatus.REFUSED, None, None
    series.answered_job_id = None


def queue_series(
    session: Session,
    series: SeriesRow,
    model_id: int,
    now: datetime,
    missing: str | None = None,
    *,
    shadow: bool = False,
) -> JobRow | None:
    """Add a pending job for the instances that the series has now; None when the model has a job for this input set.

    Pending jobs for a smaller input set, of any model, are superseded. `missing`: what is known to be missing.
    """
    instances = instances_of(session, series.id)
    series.state, series.reason, series.detail, series.settled_at = SeriesState.QUEUED, None, None, now
    digest = input_sha256(instances)
    of_series = JobRow.series_id == series.id
    same = (of_series, JobRow.model_id == model_id, JobRow.input_sha256 == digest)
    if session.scalar(select(JobRow.id).where(*same)) is not None:
        return None
    session.execute(
        update(JobRow)
        .where(of_series, JobRow.state == JobState.PENDING, JobRow.input_sha256 != digest)
        .values(state=JobState.SUPERSEDED, reason="more-instances-came", finished_at=now)
    )
    job = JobRow(
        series_id=series.id,
        model_id=model_id,
        input_sha256=digest,
        last_instance_id=instances[-1].id,
        missing=missing[:DETAIL_LENGTH] if missing else None,
        shadow=shadow,
        not_before=now,
        created_at=now,
    )
    session.add(job)
    session.flush()
    return job


def series_to_empty(session: Session, before: datetime, limit: int = 100) -> Sequence[int]:
    """Ids of series that were answered before a time and still have files: refused, or with every delivery arrived.

    Where storage commitment is requested, arrived means confirmed. A series retains its files while it has an
    unfinished job, parked jobs included; a shadow job counts only while it is pending or running.
    """
    under_way = JobRow.state.in_([JobState.PENDING, JobState.RUNNING])
    parked = and_(JobRow.state == JobState.PARKED, ~JobRow.shadow)
    open_job = select(JobRow.id).where(JobRow.series_id == SeriesRow.id, or_(under_way, parked)).exists()
    has_result = select(ResultRow.id).where(ResultRow.series_id == SeriesRow.id).exists()
    undelivered = (
        select(DeliveryRow.id)
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .join(ResultRow, ResultRow.id == ObjectRow.result_id)
        .where(ResultRow.series_id == SeriesRow.id)
        .where(
            or_(
                DeliveryRow.state != DeliveryState.DELIVERED,
                DeliveryRow.commitment.in_([Commitment.DUE, Commitment.REQUESTED]),
            )
        )
        .exists()
    )
    answered = or_(
        SeriesRow.state == SeriesState.REFUSED,
        and_(SeriesRow.state == SeriesState.QUEUED, has_result, ~open_job, ~undelivered),
    )
    has_files = (
        select(InstanceRow.id).where(InstanceRow.series_id == SeriesRow.id, InstanceRow.removed_at.is_(None)).exists()
    )
    return session.scalars(
        select(SeriesRow.id)
        .where(SeriesRow.settled_at < before, answered, has_files)
        .order_by(SeriesRow.settled_at)
        .limit(limit)
    ).all()


def lock_settled_series(session: Session, series_id: int, before: datetime) -> bool:
    """Lock a series that settled before a time; False when it is open again. A late instance waits for our commit."""
    locked = session.scalar(
        select(SeriesRow.id)
        .where(SeriesRow.id == series_id, SeriesRow.state != SeriesState.OPEN, SeriesRow.settled_at < before)
        .with_for_update()
    )
    return locked is not None
