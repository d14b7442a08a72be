"""Notices to operators: found in what the tables say, added once for each channel, leased and sent like deliveries.

A notice holds row numbers. Its patient is looked up when it is sent, and only for a channel that may name patients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from worker.db.engine import is_any_of, upsert
from worker.db.tables import (
    DeliveryRow,
    DeliveryState,
    JobRow,
    JobState,
    ModelRow,
    NoticeRow,
    NoticeState,
    ObjectRow,
    ResultRow,
    SeriesRow,
    StudyResultRow,
    StudyRow,
    StudyState,
)
from worker.wording import counted

_MOST = 500  # of an event, found at once
_NEWS = timedelta(days=1)  # an urgent result that is older is no news
_REMEMBERED = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class News:
    """Something that an operator should know; `subject` is the same as long as it is the same thing."""

    event: str
    subject: str
    text: str
    series_id: int | None = None


def find_news(session: Session, events: Collection[str], undelivered: timedelta, now: datetime) -> list[News]:
    """What there is to tell now, told before or not."""
    found: list[News] = []
    if "parked" in events:
        found += _parked(session)
    if "undelivered" in events:
        found += _failed(session)
        found += _waiting(session, now - undelivered, now)
    if "urgent-lesion" in events:
        found += _urgent_lesions(session, now - _NEWS)
    return found


def _parked(session: Session) -> Iterator[News]:
    jobs = select(JobRow).where(JobRow.state == JobState.PARKED, ~JobRow.shadow).order_by(JobRow.id).limit(_MOST)
    for job in session.scalars(jobs):
        ended = f" {job.finished_at:%Y%m%d%H%M%S}" if job.finished_at else ""
        yield News("parked", f"job {job.id}{ended}", f"job {job.id} is parked: {job.reason}", job.series_id)
    studies = select(StudyRow).where(StudyRow.state == StudyState.PARKED).order_by(StudyRow.id).limit(_MOST)
    for study in session.scalars(studies):
        subject = f"study {study.id} {study.attempts}"
        yield News("parked", subject, f"study row {study.id} is parked: {study.reason}")


def _failed(session: Session) -> Iterator[News]:
    rows = select(DeliveryRow).where(DeliveryRow.state == DeliveryState.FAILED).order_by(DeliveryRow.id).limit(_MOST)
    for row in session.scalars(rows):
        text = f"delivery {row.id} to {row.destination} failed: {row.reason}"
        yield News("undelivered", f"delivery {row.id} {row.attempts}", text)


def _waiting(session: Session, before: datetime, now: datetime) -> Iterator[News]:
    """Once a day for each destination whose oldest delivery waits too long."""
    oldest = (
        select(DeliveryRow.destination, func.min(DeliveryRow.id), func.count())
        .where(DeliveryRow.state.in_([DeliveryState.PENDING, DeliveryState.SENDING]))
        .group_by(DeliveryRow.destination)
    )
    for destination, number, count in session.execute(oldest).all():
        made = session.scalar(
            select(func.coalesce(ResultRow.created_at, StudyResultRow.created_at))
            .select_from(DeliveryRow)
            .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
            .outerjoin(ResultRow, ResultRow.id == ObjectRow.result_id)
            .outerjoin(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
            .where(DeliveryRow.id == number)
        )
        if made is not None and made < before:
            text = f"{counted(count, 'delivery')} to {destination} waiting, the oldest since {made:%Y-%m-%d %H:%M} UTC"
            yield News("undelivered", f"destination {destination} {now:%Y-%m-%d}", text)


def _urgent_lesions(session: Session, since: datetime) -> Iterator[News]:
    rows = session.execute(
        select(ResultRow.id, ResultRow.series_id, ResultRow.label, ModelRow.labels)
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .join(ModelRow, ModelRow.id == ResultRow.model_id)
        .where(ResultRow.created_at >= since, JobRow.urgent, ResultRow.label.is_not(None))
        .order_by(ResultRow.id)
        .limit(_MOST)
    )
    for number, series_id, label, labels in rows:
        if (labels or {}).get(label, {}).get("lesion"):
            text = f"urgent series {series_id}: the model answers '{label}'; unverified until a physician has looked"
            yield News("urgent-lesion", f"result {number}", text, series_id)


def add_notices(session: Session, channel: str, news: Sequence[News], now: datetime) -> None:
    """Add what this channel has not been told; two processes that find the same leave one row."""
    connection = session.connection()
    session.execute(delete(NoticeRow).where(NoticeRow.state == NoticeState.SENT, NoticeRow.sent_at < now - _REMEMBERED))
    for item in news:
        values: dict[str, Any] = {"channel": channel, "event": item.event, "subject": item.subject, "text": item.text}
        values |= {"series_id": item.series_id, "created_at": now, "not_before": now, "state": NoticeState.PENDING}
        connection.execute(upsert(connection)(NoticeRow).values(attempts=0, **values).on_conflict_do_nothing())


def untold(session: Session, channel: str, news: Sequence[News]) -> list[News]:
    """Of what was found, what this channel has no notice of."""
    is_found = is_any_of(session, NoticeRow.subject, [item.subject for item in news])
    rows = select(NoticeRow.event, NoticeRow.subject).where(NoticeRow.channel == channel, is_found)
    known = {(event, subject) for event, subject in session.execute(rows)}
    return [item for item in news if (item.event, item.subject) not in known]


def _due(channel: str, now: datetime) -> ColumnElement[bool]:
    waits = and_(NoticeRow.state == NoticeState.PENDING, NoticeRow.not_before <= now)
    abandoned = and_(NoticeRow.state == NoticeState.SENDING, NoticeRow.lease_until < now)
    return and_(NoticeRow.channel == channel, or_(waits, abandoned))


def notices_wait(session: Session, channel: str, now: datetime) -> bool:
    return session.scalar(select(NoticeRow.id).where(_due(channel, now)).limit(1)) is not None


def claim_notices(
    session: Session, channel: str, owner: str, now: datetime, lease: timedelta, limit: int
) -> list[NoticeRow]:
    """Claim the oldest due notices of a channel; they go out in one message."""
    due = select(NoticeRow).where(_due(channel, now)).order_by(NoticeRow.id).limit(limit)
    rows = list(session.scalars(due.with_for_update(skip_locked=True)))
    for row in rows:
        row.state, row.lease_owner, row.lease_until = NoticeState.SENDING, owner, now + lease
        row.attempts += 1
    session.flush()
    return rows


def end_notices(session: Session, notice_ids: Sequence[int], owner: str, values: dict[str, Any]) -> None:
    """Give leased notices their next state."""
    leased = and_(NoticeRow.state == NoticeState.SENDING, NoticeRow.lease_owner == owner)
    ended = update(NoticeRow).where(NoticeRow.id.in_(notice_ids), leased)
    session.execute(ended.values(lease_owner=None, lease_until=None, **values))


@dataclass(frozen=True, slots=True)
class Patient:
    """Whom a notice is about, for a channel that may tell it."""

    patient_id: str
    patient_name: str
    study_instance_uid: str


def patients_of(session: Session, series_ids: Collection[int]) -> dict[int, Patient]:
    """The patients of series that are still there, by row id."""
    rows = session.scalars(select(SeriesRow).where(SeriesRow.id.in_(series_ids)))
    return {row.id: Patient(row.patient_id, row.patient_name, row.study_instance_uid) for row in rows}


def unsent_notices(session: Session) -> dict[str, tuple[int, str | None]]:
    """The number of notices of each channel that were tried and did not arrive, and why the last of them did not."""
    tried = (NoticeRow.state != NoticeState.SENT, NoticeRow.attempts > 0, NoticeRow.reason.is_not(None))
    rows = session.execute(
        select(NoticeRow.channel, func.count(), func.max(NoticeRow.id)).where(*tried).group_by(NoticeRow.channel)
    ).all()
    details = {
        row.id: row.detail
        for row in session.scalars(select(NoticeRow).where(NoticeRow.id.in_([last for *_, last in rows])))
    }
    return {channel: (number, details[last]) for channel, number, last in rows}
