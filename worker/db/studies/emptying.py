"""Studies whose received files retention may delete: whole studies, so that none is seen without some of its series."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from worker.db.tables import (
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
    StudyResultRow,
    StudyRow,
    StudyState,
)


def studies_to_empty(session: Session, before: datetime, limit: int = 100) -> Sequence[str]:
    """The UIDs of studies that have files, and of which every series was answered before a time.

    Answered: refused, or with every delivery arrived; where storage commitment is requested, confirmed. A series
    retains the files of its study while it has an unfinished job, parked jobs included; a shadow job counts only while
    it is pending or running. So does a study without an answer for what its series say, or whose report is under way.
    """
    series, other = SeriesRow, aliased(SeriesRow)
    of_study = other.study_instance_uid == series.study_instance_uid
    retained = select(other.id).where(of_study, ~_is_done(other, before)).correlate(series).exists()
    unanswered = (
        select(StudyRow.id)
        .where(StudyRow.study_instance_uid == series.study_instance_uid, StudyRow.state != StudyState.ANSWERED)
        .exists()
    )
    undelivered = (
        _undelivered()
        .join(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
        .join(StudyRow, StudyRow.id == StudyResultRow.study_id)
        .where(StudyRow.study_instance_uid == series.study_instance_uid)
        .exists()
    )
    has_files = select(InstanceRow.id).where(InstanceRow.series_id == series.id, InstanceRow.removed_at.is_(None))
    return session.scalars(
        select(series.study_instance_uid)
        .where(_is_done(series, before), has_files.exists(), ~retained, ~unanswered, ~undelivered)
        .group_by(series.study_instance_uid)
        .order_by(func.min(series.settled_at), series.study_instance_uid)
        .limit(limit)
    ).all()


def _is_done(series: Any, before: datetime) -> ColumnElement[bool]:
    under_way = JobRow.state.in_([JobState.PENDING, JobState.RUNNING])
    parked = and_(JobRow.state == JobState.PARKED, ~JobRow.shadow)
    open_job = select(JobRow.id).where(JobRow.series_id == series.id, or_(under_way, parked)).exists()
    has_result = select(ResultRow.id).where(ResultRow.series_id == series.id).exists()
    of_series = _undelivered().join(ResultRow, ResultRow.id == ObjectRow.result_id)
    undelivered = of_series.where(ResultRow.series_id == series.id).exists()
    answered = or_(
        series.state == SeriesState.REFUSED,
        and_(series.state == SeriesState.QUEUED, has_result, ~open_job, ~undelivered),
    )
    return and_(series.settled_at.is_not(None), series.settled_at < before, answered)


def _undelivered() -> Select[Any]:
    """Deliveries that have not arrived, or that storage commitment is open for, with their objects."""
    return (
        select(DeliveryRow.id)
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .where(
            or_(
                DeliveryRow.state.not_in([DeliveryState.DELIVERED, DeliveryState.SUPERSEDED]),
                DeliveryRow.commitment.in_([Commitment.DUE, Commitment.REQUESTED]),
            )
        )
    )


def lock_settled_study(session: Session, study_instance_uid: str, before: datetime) -> list[int]:
    """Lock the series of a study that settled before a time; their row ids, none where any is open again.

    A late instance of theirs waits for our commit.
    """
    rows = session.execute(
        select(SeriesRow.id, SeriesRow.state, SeriesRow.settled_at)
        .where(SeriesRow.study_instance_uid == study_instance_uid)
        .order_by(SeriesRow.id)
        .with_for_update()
    ).all()
    if any(row.state == SeriesState.OPEN or row.settled_at is None or row.settled_at >= before for row in rows):
        return []
    return [row.id for row in rows]
