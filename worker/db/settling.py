"""Queries of settling: which open series are complete, and for which the sender's number of images is requested."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from worker.db.tables import AssociationEnd, AssociationRow, InstanceRow, SeriesRow, SeriesState

_BROKEN_OFF = (AssociationEnd.ABORTED, AssociationEnd.LOST)


@dataclass(frozen=True, slots=True)
class CountPolicy:
    """How the number of images that a sender reports bears on settling.

    `peers`: calling AE titles of the senders that are queried; `settle_on_count`: a series is complete as soon as it
    has that number; `extra_quiet`: added to the quiet time while the number is unknown or not reached, and, of every
    sender, after a transfer that broke off.
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

    Complete: nothing came for `quiet`, and the series' associations ended at least `quiet` ago. So a sender that lost
    its association, even because this worker was killed, has `quiet` from then on to send the rest. The end of an
    association whose receiver died is never recorded; it counts as ended after twice the idle limit without an
    instance, because a living receiver would have ended it. After an association that was not released, or has no end,
    a series waits `extra_quiet` more unless the sender's count says that it is complete: the sender may come back. A
    count delays completion or brings it forward: see CountPolicy. `awaited`: details of models that are not active;
    series that wait for such a model are left out.
    """
    open_association = _comes_over(or_(AssociationRow.closed_at.is_(None), AssociationRow.closed_at > now - quiet))
    is_whole = and_(_counted_since_last_arrival(), _expected() > 0, _expected() <= _instances())
    extra = count_policy.extra_quiet
    broke_off = _comes_over(and_(AssociationRow.ended.in_(_BROKEN_OFF), AssociationRow.closed_at > now - quiet - extra))
    without_end = SeriesRow.last_received_at <= now - 2 * idle
    complete = and_(
        SeriesRow.last_received_at <= now - quiet,
        or_(~open_association, and_(without_end, or_(is_whole, SeriesRow.last_received_at <= now - 2 * idle - extra))),
        or_(~broke_off, is_whole),
    )
    if count_policy.peers:
        waits = and_(
            SeriesRow.last_received_at > now - quiet - count_policy.extra_quiet,
            _comes_over(AssociationRow.calling_ae_title.in_(count_policy.peers)),
            or_(~_counted_since_last_arrival(), _expected() > _instances()),
        )
        complete = and_(complete, ~waits)
        if count_policy.settle_on_count:
            complete = or_(complete, is_whole)
    rows = session.execute(
        select(SeriesRow.id, SeriesRow.last_received_at)
        .where(SeriesRow.state == SeriesState.OPEN, complete)
        .where(or_(SeriesRow.detail.is_(None), SeriesRow.detail.not_in(awaited)))
        .order_by(SeriesRow.id)
    )
    return [(row.id, row.last_received_at) for row in rows]


def series_to_count(
    session: Session, ae_title: str, now: datetime, lull: timedelta, recount_after: timedelta, limit: int = 16
) -> list[SeriesToCount]:
    """Open series from a sender that were silent for `lull` and whose number of images is not known.

    A series that has not reached its count is counted again after `recount_after`, in case the count has changed.
    """
    is_old = and_(SeriesRow.counted_at <= now - recount_after, _expected() > _instances())
    rows = session.execute(
        select(SeriesRow.id, SeriesRow.study_instance_uid, SeriesRow.series_instance_uid)
        .where(SeriesRow.state == SeriesState.OPEN, SeriesRow.last_received_at <= now - lull)
        .where(_comes_over(AssociationRow.calling_ae_title == ae_title))
        .where(or_(~_counted_since_last_arrival(), is_old))
        .order_by(SeriesRow.id)
        .limit(limit)
    )
    return [SeriesToCount(row.id, row.study_instance_uid, row.series_instance_uid) for row in rows]


def record_count(session: Session, series_id: int, counted_at: datetime, images: int | None) -> None:
    """Record the sender's number of images; without an answer (None) an earlier number stays if nothing came since."""
    earlier = case((_counted_since_last_arrival(), SeriesRow.expected_instances), else_=None)
    session.execute(
        update(SeriesRow)
        .where(SeriesRow.id == series_id, SeriesRow.state == SeriesState.OPEN)
        .values(counted_at=counted_at, expected_instances=earlier if images is None else images)
        .execution_options(synchronize_session=False)
    )


def expected_now(series: SeriesRow) -> int | None:
    """The sender's number of images, if it was requested after the last arrival."""
    is_current = series.counted_at is not None and series.counted_at >= series.last_received_at
    return series.expected_instances if is_current else None


def broken_transfers(session: Session, series_id: int) -> dict[str, int]:
    """The number of a series' instances by the end of their associations, where those were not released.

    An association that has no end although its series settles is lost: its receiver died.
    """
    rows = session.execute(
        select(AssociationRow.ended, func.count())
        .join(InstanceRow, InstanceRow.association_id == AssociationRow.id)
        .where(InstanceRow.series_id == series_id)
        .where(or_(AssociationRow.ended.in_(_BROKEN_OFF), AssociationRow.closed_at.is_(None)))
        .group_by(AssociationRow.ended)
        .order_by(AssociationRow.ended)
    )
    numbers: dict[str, int] = defaultdict(int)
    for ended, number in rows:
        numbers[ended or AssociationEnd.LOST.value] += number
    return dict(numbers)


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
    """The condition that an association which meets `condition` brought an instance of the series."""
    return (
        select(InstanceRow.id)
        .join(AssociationRow, AssociationRow.id == InstanceRow.association_id)
        .where(InstanceRow.series_id == SeriesRow.id, condition)
        .exists()
    )
