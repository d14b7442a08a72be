"""Queries of settling: which open series are complete, and which of them their senders may be asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from worker.db.tables import AssociationRow, InstanceRow, SeriesRow, SeriesState


@dataclass(frozen=True, slots=True)
class CountPolicy:
    """How a sender's count bears on settling.

    `peers`: calling AE titles of the senders that are asked; `settle_on_count`: a series whose count is reached is
    complete at once; `extra_quiet`: what is added to silence while the count is awaited, or is not reached.
    """

    peers: tuple[str, ...] = ()
    settle_on_count: bool = False
    extra_quiet: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class SeriesToCount:
    id: int
    study_instance_uid: str
    series_instance_uid: str


def series_to_settle(
    session: Session,
    now: datetime,
    quiet: timedelta,
    idle: timedelta,
    count_policy: CountPolicy,
    awaited: Sequence[str] = (),
) -> Sequence[tuple[int, datetime]]:
    """(id, last arrival) of the open series that are complete.

    Nothing came for `quiet` and the associations ended at least so long ago: so a sender that lost its association,
    be it because we were killed, has `quiet` from then on to send the rest. An association whose receiver died can
    never say that it ended; one that brought nothing for twice the idle limit is over, because a living receiver
    would have ended it. A sender's count makes it later, or earlier: see CountPolicy. `awaited`: details of models that
    are not active; a series that was found to wait for one of them is left alone.
    """
    open_association = _comes_over(or_(AssociationRow.closed_at.is_(None), AssociationRow.closed_at > now - quiet))
    complete = and_(
        SeriesRow.last_received_at <= now - quiet,
        or_(~open_association, SeriesRow.last_received_at <= now - 2 * idle),
    )
    if count_policy.peers:
        waits = and_(
            SeriesRow.last_received_at > now - quiet - count_policy.extra_quiet,
            _comes_over(AssociationRow.calling_ae_title.in_(count_policy.peers)),
            or_(~_counted_since_last_arrival(), _expected() > _instances()),
        )
        complete = and_(complete, ~waits)
        if count_policy.settle_on_count:
            reached = and_(_counted_since_last_arrival(), _expected() > 0, _expected() <= _instances())
            complete = or_(complete, reached)
    found = session.execute(
        select(SeriesRow.id, SeriesRow.last_received_at)
        .where(SeriesRow.state == SeriesState.OPEN, complete)
        .where(or_(SeriesRow.detail.is_(None), SeriesRow.detail.not_in(awaited)))
        .order_by(SeriesRow.id)
    )
    return [(row.id, row.last_received_at) for row in found]


def series_to_count(
    session: Session, ae_title: str, now: datetime, lull: timedelta, again: timedelta, limit: int = 16
) -> list[SeriesToCount]:
    """Open series from a sender of which nothing came for `lull` and whose number of images is not known.

    One whose count is not reached is asked for again after `again`, in case the count has changed.
    """
    changed = and_(SeriesRow.counted_at <= now - again, _expected() > _instances())
    found = session.execute(
        select(SeriesRow.id, SeriesRow.study_instance_uid, SeriesRow.series_instance_uid)
        .where(SeriesRow.state == SeriesState.OPEN, SeriesRow.last_received_at <= now - lull)
        .where(_comes_over(AssociationRow.calling_ae_title == ae_title))
        .where(or_(~_counted_since_last_arrival(), changed))
        .order_by(SeriesRow.id)
        .limit(limit)
    )
    return [SeriesToCount(row.id, row.study_instance_uid, row.series_instance_uid) for row in found]


def record_count(session: Session, series_id: int, asked_at: datetime, images: int | None) -> None:
    """What the sender said when it was asked; without an answer an earlier one stays, if nothing came since."""
    kept = case((_counted_since_last_arrival(), SeriesRow.expected_instances), else_=None)
    session.execute(
        update(SeriesRow)
        .where(SeriesRow.id == series_id, SeriesRow.state == SeriesState.OPEN)
        .values(counted_at=asked_at, expected_instances=kept if images is None else images)
        .execution_options(synchronize_session=False)
    )


def expected_now(series: SeriesRow) -> int | None:
    """The sender's count, where it was asked after the last arrival."""
    asked = series.counted_at is not None and series.counted_at >= series.last_received_at
    return series.expected_instances if asked else None


def _counted_since_last_arrival() -> ColumnElement[bool]:
    return and_(SeriesRow.counted_at.is_not(None), SeriesRow.counted_at >= SeriesRow.last_received_at)


def _expected() -> ColumnElement[int]:
    return func.coalesce(SeriesRow.expected_instances, 0)


def _instances() -> Any:
    return (
        select(func.count())
        .select_from(InstanceRow)
        .where(InstanceRow.series_id == SeriesRow.id)
        .correlate(SeriesRow)
        .scalar_subquery()
    )


def _comes_over(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """True for a series of which an association of that condition brought an instance."""
    return (
        select(InstanceRow.id)
        .join(AssociationRow, AssociationRow.id == InstanceRow.association_id)
        .where(InstanceRow.series_id == SeriesRow.id, condition)
        .exists()
    )
