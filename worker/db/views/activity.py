"""Activity: answers over time, the backlog of each destination, and the peers that send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median, quantiles

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.db.tables import (
    AssociationRow,
    DeliveryRow,
    DeliveryState,
    JobRow,
    JobState,
    ModelRow,
    ObjectRow,
    ResultRow,
    StudyResultRow,
)

NEWEST_RESULTS = 20_000  # more would not change a chart
_NEWEST_ASSOCIATIONS = 500


@dataclass(slots=True)
class Span:
    """Answers from `start` until the next span: numbers by class (or "not-assessed"), and the seconds of each."""

    start: datetime
    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def median_seconds(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def slowest_seconds(self) -> float | None:
        """The 95th percentile."""
        if len(self.seconds) < 2:
            return self.median_seconds
        return quantiles(self.seconds, n=20, method="inclusive")[-1]


@dataclass(frozen=True, slots=True)
class Activity:
    """Spans, oldest first. `whole` is False if only the newest results were read."""

    spans: tuple[Span, ...]
    whole: bool


def find_activity(session: Session, now: datetime, span: timedelta, count: int) -> Activity:
    """Answers in the last `count` spans; an answer's time is from queueing to result."""
    step = span.total_seconds()
    end = datetime.fromtimestamp((now.timestamp() // step + 1) * step, now.tzinfo)
    spans = [Span(end - span * (count - number)) for number in range(count)]
    rows = session.execute(
        select(ResultRow.created_at, ResultRow.label, ResultRow.status, JobRow.created_at)
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .where(ResultRow.created_at >= spans[0].start)
        .order_by(ResultRow.created_at.desc())
        .limit(NEWEST_RESULTS)
    ).all()
    for answered_at, label, status, queued_at in rows:
        index = int((answered_at - spans[0].start) / span)
        if index < count:
            spans[index].answers[label or status] += 1
            spans[index].seconds.append((answered_at - queued_at).total_seconds())
    return Activity(tuple(spans), len(rows) < NEWEST_RESULTS)


def parked_counts(session: Session) -> tuple[int, int]:
    """(parked jobs, failed deliveries): both wait for an operator."""
    jobs = select(func.count()).select_from(JobRow).where(JobRow.state == JobState.PARKED)
    deliveries = select(func.count()).select_from(DeliveryRow).where(DeliveryRow.state == DeliveryState.FAILED)
    return session.scalar(jobs) or 0, session.scalar(deliveries) or 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """A destination's open deliveries: their numbers, the oldest result, the last delivery, the reason of the delay."""

    waiting: int
    failed: int
    oldest: datetime | None
    last_delivered_at: datetime | None
    reason: str | None


def find_backlog(session: Session, destination: str) -> Backlog:
    """The backlog of a destination."""
    of_destination = DeliveryRow.destination == destination
    open_states = [DeliveryState.PENDING, DeliveryState.SENDING]
    waiting = session.scalar(
        select(func.count(DeliveryRow.id)).where(of_destination, DeliveryRow.state.in_(open_states))
    )
    failed = session.scalar(
        select(func.count(DeliveryRow.id)).where(of_destination, DeliveryRow.state == DeliveryState.FAILED)
    )
    oldest = session.execute(
        select(func.coalesce(ResultRow.created_at, StudyResultRow.created_at), DeliveryRow.reason)
        .select_from(DeliveryRow)
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .outerjoin(ResultRow, ResultRow.id == ObjectRow.result_id)
        .outerjoin(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
        .where(of_destination, DeliveryRow.state.in_(open_states))
        .order_by(DeliveryRow.id)
        .limit(1)
    ).first()
    last = session.scalar(
        select(DeliveryRow.delivered_at)
        .where(of_destination, DeliveryRow.state == DeliveryState.DELIVERED)
        .order_by(DeliveryRow.not_before.desc())
        .limit(1)
    )
    since, reason = (oldest[0], oldest[1]) if oldest else (None, None)
    return Backlog(waiting or 0, failed or 0, since, last, reason)


@dataclass(frozen=True, slots=True)
class SendingPeer:
    """A peer that recently sent instances."""

    ae_title: str
    address: str
    associations: int
    last_at: datetime


def sending_peers(session: Session) -> list[SendingPeer]:
    """The calling peers of the newest associations, latest first."""
    rows = session.execute(
        select(AssociationRow.calling_ae_title, AssociationRow.peer, AssociationRow.opened_at)
        .order_by(AssociationRow.id.desc())
        .limit(_NEWEST_ASSOCIATIONS)
    ).all()
    numbers = Counter((row.calling_ae_title, row.peer) for row in rows)
    last: dict[tuple[str, str], datetime] = {}
    for row in rows:
        last.setdefault((row.calling_ae_title, row.peer), row.opened_at)
    return [SendingPeer(title, peer, numbers[title, peer], at) for (title, peer), at in last.items()]


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """A model that has been in use; `sha256` is the hash of its bundle."""

    name: str
    version: str
    sha256: str
    added_at: datetime


def used_models(session: Session) -> Sequence[ModelUsage]:
    """Every model that has been in use, newest first."""
    rows = session.scalars(select(ModelRow).order_by(ModelRow.id.desc()))
    return [ModelUsage(row.name, row.version, row.sha256, row.added_at) for row in rows]
