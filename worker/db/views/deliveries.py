"""Deliveries with the patient and the study that they are of, by destination: what waits, what failed, what arrived."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased

from worker.db.tables import DeliveryRow, DeliveryState, ObjectRow, ResultRow, SeriesRow, StudyResultRow, StudyRow

UNFINISHED = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.FAILED)


@dataclass(frozen=True, slots=True)
class DeliverySearch:
    """Which deliveries: every condition that is not None must hold; an empty `states` is what has not arrived.

    `after` is the number of the last delivery that the caller has; `before` the same where the newest come first.
    """

    destination: str | None = None
    states: Collection[str] = ()
    patient_id: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    after: int = 0
    before: int | None = None
    newest_first: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class DeliveryAnswer:
    """An object on its way to a destination, or there; `number` is what `worker deliveries retry` takes.

    It is of a series or, where `series_instance_uid` is None, of its study.
    """

    number: int
    destination: str
    patient_id: str
    patient_name: str
    study_date: str
    study_instance_uid: str
    series_instance_uid: str | None
    object: str
    state: str
    attempts: int
    status: int | None
    reason: str | None
    detail: str | None
    not_before: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class DestinationCounts:
    """How many deliveries of a destination are in each unfinished state, and why the last of them waits or failed."""

    destination: str
    pending: int
    sending: int
    failed: int
    reason: str | None
    detail: str | None


def find_deliveries(session: Session, search: DeliverySearch) -> list[DeliveryAnswer]:
    """The deliveries by number, which is the order in which they were made, or the reverse of it."""
    key = session.info.get("pseudonym") or str
    of_study = aliased(SeriesRow)  # whose patient is that of the study
    first_of_study = (
        select(func.min(of_study.id))
        .where(of_study.study_instance_uid == StudyRow.study_instance_uid)
        .scalar_subquery()
    )
    query = (
        select(DeliveryRow, ObjectRow, SeriesRow, StudyRow.study_instance_uid)
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .outerjoin(ResultRow, ResultRow.id == ObjectRow.result_id)
        .outerjoin(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
        .outerjoin(StudyRow, StudyRow.id == StudyResultRow.study_id)
        .outerjoin(SeriesRow, SeriesRow.id == func.coalesce(ResultRow.series_id, first_of_study))
        .where(DeliveryRow.state.in_(search.states or UNFINISHED), DeliveryRow.id > search.after)
        .order_by(DeliveryRow.id.desc() if search.newest_first else DeliveryRow.id)
        .limit(search.limit)
    )
    if search.before is not None:
        query = query.where(DeliveryRow.id < search.before)
    if search.destination is not None:
        query = query.where(DeliveryRow.destination == search.destination)
    if search.patient_id is not None:
        query = query.where(SeriesRow.patient_id == key(search.patient_id))
    if search.study_instance_uid is not None:
        of_either = (SeriesRow.study_instance_uid, StudyRow.study_instance_uid)
        query = query.where(or_(*(uid == search.study_instance_uid for uid in of_either)))
    if search.series_instance_uid is not None:
        of_series = ObjectRow.result_id.is_not(None)
        query = query.where(of_series, SeriesRow.series_instance_uid == search.series_instance_uid)
    return [
        DeliveryAnswer(
            number=row.id,
            destination=row.destination,
            patient_id=series.patient_id if series else "",
            patient_name=series.patient_name if series else "",
            study_date=series.study_date if series else "",
            study_instance_uid=study or series.study_instance_uid,
            series_instance_uid=series.series_instance_uid if produced.result_id is not None else None,
            object=produced.kind,
            state=row.state,
            attempts=row.attempts,
            status=row.status,
            reason=row.reason,
            detail=row.detail,
            not_before=row.not_before,
            delivered_at=row.delivered_at,
        )
        for row, produced, series, study in session.execute(query)
    ]


def count_by_destination(session: Session) -> list[DestinationCounts]:
    """The destinations to which something has not arrived, by name."""
    counts: dict[str, dict[str, int]] = {}
    rows = session.execute(
        select(DeliveryRow.destination, DeliveryRow.state, func.count(), func.max(DeliveryRow.id))
        .where(DeliveryRow.state.in_(UNFINISHED))
        .group_by(DeliveryRow.destination, DeliveryRow.state)
    ).all()
    newest: dict[str, int] = {}
    for destination, state, number, last in rows:
        counts.setdefault(destination, dict.fromkeys(UNFINISHED, 0))[state] = number
        newest[destination] = max(last, newest.get(destination, 0))
    reasons = {
        row.destination: (row.reason, row.detail)
        for row in session.scalars(select(DeliveryRow).where(DeliveryRow.id.in_(newest.values())))
    }
    return [
        DestinationCounts(
            destination,
            of_state[DeliveryState.PENDING],
            of_state[DeliveryState.SENDING],
            of_state[DeliveryState.FAILED],
            *reasons[destination],
        )
        for destination, of_state in sorted(counts.items())
    ]
