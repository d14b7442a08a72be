"""How the worker has been doing: answers over time, what waits for each destination, who sends."""

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
    SeriesRow,
    SeriesStatus,
)

NEWEST_RESULTS = 20_000  # a chart of more would say no more
MANY = 10_000  # a person asks whether it is three or three hundred; /metrics has the rest
_NEWEST_ASSOCIATIONS = 500


@dataclass(slots=True)
class Span:
    """What was answered from `start` until the next span: numbers by class (or "not-assessed"), seconds each took."""

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
    """Spans, oldest first. `whole` is False where only the newest results were read."""

    spans: tuple[Span, ...]
    whole: bool


def find_activity(session: Session, now: datetime, span: timedelta, count: int) -> Activity:
    """Answers in the last `count` spans; the time of each is from queueing to its result."""
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
        place = int((answered_at - spans[0].start) / span)
        if place < count:
            spans[place].answers[label or status] += 1
            spans[place].seconds.append((answered_at - queued_at).total_seconds())
    return Activity(tuple(spans), len(rows) < NEWEST_RESULTS)


@dataclass(frozen=True, slots=True)
class Tally:
    """A number of series; `more` where they were not counted to their end."""

    number: int
    more: bool


def count_by_status(session: Session) -> dict[str, Tally]:
    """How many series there are of each status, counted up to MANY: a million take longer than the page itself."""
    some = {one: select(SeriesRow.id).where(SeriesRow.status == one.value).limit(MANY + 1) for one in SeriesStatus}
    counts = [select(func.count()).select_from(of.subquery()).scalar_subquery() for of in some.values()]
    counted = session.execute(select(*counts)).one()
    return {one.value: Tally(min(number, MANY), number > MANY) for one, number in zip(some, counted, strict=True)}


def parked_counts(session: Session) -> tuple[int, int]:
    """(parked jobs, failed deliveries): what waits for a person."""
    jobs = select(func.count()).select_from(JobRow).where(JobRow.state == JobState.PARKED)
    deliveries = select(func.count()).select_from(DeliveryRow).where(DeliveryRow.state == DeliveryState.FAILED)
    return session.scalar(jobs) or 0, session.scalar(deliveries) or 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a destination has not taken yet, since when, and when it last took something."""

    waiting: int
    failed: int
    oldest: datetime | None
    last_delivered_at: datetime | None
    reason: str | None


def find_backlog(session: Session, destination: str) -> Backlog:
    """The state of one destination's deliveries."""
    of_it = DeliveryRow.destination == destination
    open_states = [DeliveryState.PENDING, DeliveryState.SENDING]
    waiting = session.scalar(select(func.count(DeliveryRow.id)).where(of_it, DeliveryRow.state.in_(open_states)))
    failed = session.scalar(select(func.count(DeliveryRow.id)).where(of_it, DeliveryRow.state == DeliveryState.FAILED))
    oldest = session.execute(
        select(ResultRow.created_at, DeliveryRow.reason)
        .select_from(DeliveryRow)
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .join(ResultRow, ResultRow.id == ObjectRow.result_id)
        .where(of_it, DeliveryRow.state.in_(open_states))
        .order_by(DeliveryRow.id)
        .limit(1)
    ).first()
    last = session.scalar(
        select(DeliveryRow.delivered_at)
        .where(of_it, DeliveryRow.state == DeliveryState.DELIVERED)
        .order_by(DeliveryRow.not_before.desc())
        .limit(1)
    )
    since, reason = (oldest.created_at, oldest.reason) if oldest else (None, None)
    return Backlog(waiting or 0, failed or 0, since, last, reason)


@dataclass(frozen=True, slots=True)
class SendingPeer:
    """A peer that opened associations lately."""

    ae_title: str
    address: str
    associations: int
    last_at: datetime


def sending_peers(session: Session) -> list[SendingPeer]:
    """Who brought images in the newest associations, the latest first."""
    rows = session.execute(
        select(AssociationRow.calling_ae_title, AssociationRow.peer, AssociationRow.opened_at)
        .order_by(AssociationRow.id.desc())
        .limit(_NEWEST_ASSOCIATIONS)
    ).all()
    counted = Counter((one.calling_ae_title, one.peer) for one in rows)
    last: dict[tuple[str, str], datetime] = {}
    for one in rows:
        last.setdefault((one.calling_ae_title, one.peer), one.opened_at)
    return [SendingPeer(title, peer, counted[title, peer], at) for (title, peer), at in last.items()]


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """A model that has been in use; `sha256` is the hash of its bundle."""

    name: str
    version: str
    sha256: str
    added_at: datetime


def used_models(session: Session) -> Sequence[ModelUsage]:
    """Newest first."""
    rows = session.scalars(select(ModelRow).order_by(ModelRow.id.desc()))
    return [ModelUsage(one.name, one.version, one.sha256, one.added_at) for one in rows]
