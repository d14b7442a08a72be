"""Queries of settling: which open series are complete, and for which the sender's number of images is requested."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, case, delete, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from worker.db.tables import (
    AssociationEnd,
    AssociationRow,
    EarlierVersionRow,
    InstanceRow,
    RefusedInstanceRow,
    SeriesRow,
    SeriesState,
)

_BROKEN_OFF = (AssociationEnd.ABORTED, AssociationEnd.LOST)
REFUSALS_OF_A_PEER, ALL_REFUSALS = 2_000, 20_000  # rows: strangers do not grow the database
REFUSALS_KEPT = timedelta(days=7)


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


# Made once: to make the statement of `series_to_settle` takes longer than to execute it.
_MAY_BE_QUIET = (
    select(SeriesRow.id)
    .where(SeriesRow.state == SeriesState.OPEN, SeriesRow.last_received_at <= bindparam("quiet_since"))
    .limit(1)
)
_MAY_BE_COUNTED = (
    select(SeriesRow.id).where(SeriesRow.state == SeriesState.OPEN, SeriesRow.expected_instances > 0).limit(1)
)


@dataclass(frozen=True, slots=True)
class SeriesToCount:
    id: int
    study_instance_uid: str
    series_instance_uid: str


def may_settle(session: Session, now: datetime, quiet: timedelta, count_policy: CountPolicy) -> bool:
    """Whether `series_to_settle` may find anything; True for every series that it finds, and some others."""
    connection = session.connection()
    if connection.scalar(_MAY_BE_QUIET, {"quiet_since": now - quiet}) is not None:
        return True
    is_counted = count_policy.settle_on_count and bool(count_policy.peers)
    return is_counted and connection.scalar(_MAY_BE_COUNTED) is not None


def series_to_settle(
    session: Session,
    now: datetime,
    quiet: timedelta,
    idle: timedelta,
    count_policy: CountPolicy,
    awaited: Sequence[str] = (),
    living: Sequence[str] = (),
) -> Sequence[tuple[int, datetime]]:
    """(id, last arrival) of the open series that are complete.

    Complete: nothing came for `quiet`, and the series' associations ended at least `quiet` ago. So a sender that lost
    its association, even because this worker was killed, has `quiet` from then on to send the rest. A sender that keeps
    its association open has `idle`: it lives, and sends other series or C-ECHO over it, for else its silence would have
    ended it. The end of an association whose receiver, not among the `living` processes, died is never recorded; it
    counts as ended after twice the idle limit without an instance. After an association that was not released, or has
    no end, and after an instance of it was refused and did not come again, a series waits `extra_quiet` more unless the
    sender's count says that it is complete: the sender may come back. So does, whatever the count says, a series of
    which only some images were moved to another by a correction, and that other series. A count delays completion or
    brings it forward: see CountPolicy. `awaited`: details of models that are not active; series that wait for such a
    model are left out.
    """
    extra = count_policy.extra_quiet
    query = _settling_query(bool(count_policy.peers), count_policy.settle_on_count)
    rows = session.execute(
        query,
        {
            "quiet_since": now - quiet,
            "long_since": now - quiet - extra,
            "idle_since": now - idle,
            "lost_since": now - 2 * idle,
            "long_lost_since": now - 2 * idle - extra,
            "living": living or ("",),  # an empty list has one form for IN and NOT IN, whose parameter is the same
            "peers": count_policy.peers,
            "awaited": awaited,
        },
    )
    return [(row.id, row.last_received_at) for row in rows]


@lru_cache
def _settling_query(asks_peers: bool, settle_on_count: bool) -> Select[int, datetime]:
    """The statement of `series_to_settle`, made once: that takes five times as long as to execute it."""
    quiet_since: BindParameter[datetime] = bindparam("quiet_since")
    long_since: BindParameter[datetime] = bindparam("long_since")
    is_open = AssociationRow.closed_at.is_(None)
    has_receiver = AssociationRow.receiver.in_(bindparam("living", expanding=True))
    just_ended = _comes_over(AssociationRow.closed_at > quiet_since)
    is_kept_open, has_no_end = _comes_over(and_(is_open, has_receiver)), _comes_over(and_(is_open, ~has_receiver))
    is_whole = and_(_counted_since_last_arrival(), _expected() > 0, _expected() <= _instances())
    broke_off = _comes_over(and_(AssociationRow.ended.in_(_BROKEN_OFF), AssociationRow.closed_at > long_since))
    last = SeriesRow.last_received_at
    is_moved = _is_partly_moved(long_since)
    complete = and_(
        last <= quiet_since,
        ~just_ended,
        or_(~is_kept_open, last <= bindparam("idle_since")),
        or_(
            ~has_no_end,
            and_(last <= bindparam("lost_since"), or_(is_whole, last <= bindparam("long_lost_since"))),
        ),
        or_(~broke_off, is_whole),
        or_(~_lacks_refused(RefusedInstanceRow.refused_at > long_since), is_whole),
        ~is_moved,
    )
    if asks_peers:
        waits = and_(
            last > long_since,
            _comes_over(AssociationRow.calling_ae_title.in_(bindparam("peers", expanding=True))),
            or_(~_counted_since_last_arrival(), _expected() > _instances()),
        )
        complete = and_(complete, ~waits)
        if settle_on_count:
            complete = or_(complete, and_(is_whole, ~is_moved))
    return (
        select(SeriesRow.id, SeriesRow.last_received_at)
        .where(SeriesRow.state == SeriesState.OPEN, complete)
        .where(or_(SeriesRow.detail.is_(None), SeriesRow.detail.not_in(bindparam("awaited", expanding=True))))
        .order_by(SeriesRow.id)
    )


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


def broken_transfers(session: Session, series_id: int, living: Sequence[str] = ()) -> dict[str, int]:
    """The number of a series' instances by the end of their associations, where those were not released.

    An association that is open although its receiver is not among the `living` processes is lost.
    """
    is_lost = and_(AssociationRow.closed_at.is_(None), AssociationRow.receiver.not_in(living))
    rows = session.execute(
        select(AssociationRow.ended, func.count())
        .join(InstanceRow, InstanceRow.association_id == AssociationRow.id)
        .where(InstanceRow.series_id == series_id)
        .where(or_(AssociationRow.ended.in_(_BROKEN_OFF), is_lost))
        .group_by(AssociationRow.ended)
        .order_by(AssociationRow.ended)
    )
    numbers: dict[str, int] = defaultdict(int)
    for ended, number in rows:
        numbers[ended or AssociationEnd.LOST.value] += number
    return dict(numbers)


def senders_of(session: Session, series_id: int) -> list[str]:
    """The calling AE titles of the associations that brought a series."""
    return list(
        session.scalars(
            select(AssociationRow.calling_ae_title)
            .join(InstanceRow, InstanceRow.association_id == AssociationRow.id)
            .where(InstanceRow.series_id == series_id)
            .distinct()
            .order_by(AssociationRow.calling_ae_title)
        )
    )


# --- refused instances -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstanceRefusal:
    """An instance that was refused. UIDs are valid or empty; `sop_instance_uid` is the dataset's, or the command's.

    `affected_sop_instance_uid` is the command's where it is another.
    """

    series_instance_uid: str
    sop_instance_uid: str
    affected_sop_instance_uid: str
    association_id: int | None
    peer: str
    status: str
    reason: str
    refused_at: datetime


def add_refused_instances(session: Session, refusals: Sequence[InstanceRefusal], now: datetime) -> None:
    """Record refused instances, once each, within REFUSALS_OF_A_PEER, ALL_REFUSALS and REFUSALS_KEPT."""
    refused = RefusedInstanceRow
    session.execute(delete(refused).where(refused.refused_at < now - REFUSALS_KEPT))
    room = ALL_REFUSALS - (session.scalar(select(func.count()).select_from(refused)) or 0)
    rooms: dict[str, int] = {}
    for refusal in refusals:
        key = (refusal.series_instance_uid, refusal.sop_instance_uid, refusal.affected_sop_instance_uid)
        columns = (refused.series_instance_uid, refused.sop_instance_uid, refused.affected_sop_instance_uid)
        values = {name: getattr(refusal, name) for name in ("association_id", "status", "reason", "refused_at")}
        same = [column == value for column, value in zip(columns, key, strict=True)]
        if session.execute(update(refused).where(*same).values(values).returning(refused.id)).first() is not None:
            continue
        if refusal.peer not in rooms:
            of_peer = select(func.count()).select_from(refused).where(refused.peer == refusal.peer)
            rooms[refusal.peer] = REFUSALS_OF_A_PEER - (session.scalar(of_peer) or 0)
        if room > 0 and rooms[refusal.peer] > 0:
            room, rooms[refusal.peer] = room - 1, rooms[refusal.peer] - 1
            session.add(refused(**asdict(refusal)))
            session.flush()


def refused_instances_of(session: Session, series_instance_uid: str) -> dict[tuple[str, str], int]:
    """The number of instances that a series may lack because they were refused, by (status, reason)."""
    rows = session.execute(
        select(RefusedInstanceRow.status, RefusedInstanceRow.reason, func.count())
        .select_from(RefusedInstanceRow)
        .join(SeriesRow, SeriesRow.series_instance_uid == series_instance_uid)
        .where(*_is_lacked())
        .group_by(RefusedInstanceRow.status, RefusedInstanceRow.reason)
        .order_by(RefusedInstanceRow.status, RefusedInstanceRow.reason)
    )
    return {(status, reason): number for status, reason, number in rows}


def _lacks_refused(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition that a refused instance which meets `condition` may be lacking in the series."""
    return select(RefusedInstanceRow.id).where(condition, *_is_lacked()).correlate(SeriesRow).exists()


def _is_lacked() -> list[ColumnElement[bool]]:
    """Of a refused instance and a series: it is of the series, or of an unknown series and came with it; and not again.

    Where command and dataset named different instances, either counts as come again, but not what came before.
    """
    refused, stored = RefusedInstanceRow, aliased(InstanceRow)
    associations = select(InstanceRow.association_id).where(InstanceRow.series_id == SeriesRow.id)
    is_of_series = or_(
        refused.series_instance_uid == SeriesRow.series_instance_uid,
        and_(refused.series_instance_uid == "", refused.association_id.in_(associations.correlate(SeriesRow))),
    )
    is_later = stored.received_at >= refused.refused_at
    came_again = (
        select(stored.id)
        .where(
            or_(
                and_(
                    stored.sop_instance_uid == refused.sop_instance_uid,
                    or_(refused.affected_sop_instance_uid == "", is_later),
                ),
                and_(stored.sop_instance_uid == refused.affected_sop_instance_uid, is_later),
            )
        )
        .correlate(refused)
        .exists()
    )
    return [is_of_series, ~came_again]


def _is_partly_moved(since: BindParameter[datetime]) -> ColumnElement[bool]:
    """The condition that a sender moved images to or from a series after `since`, and that others of theirs were left.

    The rest may follow them.
    """
    earlier, moved, left = EarlierVersionRow, aliased(InstanceRow), aliased(InstanceRow)
    has_rest = select(left.id).where(left.series_id == earlier.series_id).correlate(earlier).exists()
    moves = (
        select(earlier.id)
        .join(moved, moved.id == earlier.instance_id)
        .where(moved.series_id != earlier.series_id, earlier.replaced_at > since, earlier.replaced_by.is_(None))
        .where(has_rest)
        .correlate(SeriesRow)
    )
    away, here = moves.where(earlier.series_id == SeriesRow.id), moves.where(moved.series_id == SeriesRow.id)
    return and_(SeriesRow.corrections > 0, or_(away.exists(), here.exists()))


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
