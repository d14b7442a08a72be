"""Rows of deliveries: claimed per destination, ended, confirmed by storage commitment, retried."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    bindparam,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.orm import Session, aliased

from worker.db.engine import Database
from worker.db.operating import hand_overs
from worker.db.tables import (
    UNCOMMITTED,
    Commitment,
    DeliveryRow,
    DeliveryState,
    ObjectRow,
    ResultRow,
    SeriesRow,
    StudyResultRow,
    StudyRow,
)
from worker.dicom import standard
from worker.logs import get_log

if TYPE_CHECKING:  # a command that only queries starts without pydicom and numpy
    from pydicom import Dataset

    from worker.dicom import commitment

_RESENT_AT_ONCE = 500  # objects in a transaction


def delivery_waits(session: Session, destination: str, now: datetime) -> bool:
    """Whether a delivery to the destination can be claimed, like `job_waits`."""
    return session.connection().scalar(_waiting(), {"destination": destination, "now": now}) is not None


@lru_cache
def _waiting() -> Select[int]:
    """The statement of `delivery_waits`, made once like that of `job_waits`."""
    is_claimable = or_(*_claimable_deliveries(bindparam("now")))
    return select(DeliveryRow.id).where(DeliveryRow.destination == bindparam("destination"), is_claimable).limit(1)


def destination_waits(session: Session, destination: str) -> bool:
    """Whether a destination has an unfinished or uncommitted delivery, which time may make due."""
    return session.connection().execute(_open_at(), {"destination": destination}).first() is not None


@lru_cache
def _open_at() -> CompoundSelect[int]:
    """The statement of `destination_waits`; separately, as an index finds each."""
    at = select(DeliveryRow.id).where(DeliveryRow.destination == bindparam("destination"))
    states = (DeliveryState.PENDING, DeliveryState.SENDING)
    return union_all(*(at.where(DeliveryRow.state == state) for state in states), at.where(UNCOMMITTED)).limit(1)


def delivery_exists(session: Session, delivery_id: int) -> bool:
    return session.get(DeliveryRow, delivery_id) is not None


def _claimable_deliveries(
    now: datetime | BindParameter[datetime],
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Like `_claimable_jobs`."""
    return (
        and_(DeliveryRow.state == DeliveryState.SENDING, DeliveryRow.lease_until < now),
        and_(DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.not_before <= now),
    )


def claim_deliveries(
    session: Session, destination: str, owner: str, now: datetime, lease: timedelta, limit: int = 32
) -> list[tuple[DeliveryRow, ObjectRow]]:
    """Claim up to `limit` deliveries that are due at a destination, leased to `owner`.

    First those whose lease expired; of the others half are the newest and half the longest due, so that after an
    outage a new report does not wait behind the backlog, and the backlog shrinks however many new ones arrive. The
    newest go first, a result's report before its picture. The newest are those made last and not tried yet, not
    those due last: after an outage the delays of the backlog end at any moment.
    """
    expired, pending = _claimable_deliveries(now)
    longest_due = (DeliveryRow.not_before, DeliveryRow.id)

    def claimable(
        condition: ColumnElement[bool], order: Sequence[Any], share: int, taken: Sequence[DeliveryRow]
    ) -> list[DeliveryRow]:
        others = [DeliveryRow.id.not_in([row.id for row in taken])] if taken else []
        return list(
            session.scalars(
                select(DeliveryRow)
                .where(DeliveryRow.destination == destination, condition, *others)
                .order_by(*order)
                .limit(min(share, limit - len(taken)))
                .with_for_update(skip_locked=True)
            )
        )

    abandoned = claimable(expired, longest_due, limit, ())
    untried = and_(pending, DeliveryRow.attempts == 0)  # due since they were made
    latest = (DeliveryRow.not_before.desc(), DeliveryRow.id.desc())
    newest = claimable(untried, latest, (limit + 1) // 2, abandoned)
    waiting = claimable(pending, longest_due, limit, [*abandoned, *newest])
    rows = [*abandoned, *newest, *waiting]
    for row in rows:
        row.state, row.lease_owner, row.lease_until = DeliveryState.SENDING, owner, now + lease
        row.attempts += 1
    session.flush()
    of_rows = select(ObjectRow).where(ObjectRow.id.in_({row.object_id for row in rows}))
    objects = {produced.id: produced for produced in session.scalars(of_rows)}
    newest_of = {objects[row.object_id].result: row.object_id for row in sorted(newest, key=lambda row: row.object_id)}
    newest.sort(key=lambda row: (-newest_of[objects[row.object_id].result], row.id))
    return [(row, objects[row.object_id]) for row in [*abandoned, *newest, *waiting]]


def extend_delivery_leases(session: Session, delivery_ids: Sequence[int], owner: str, until: datetime) -> None:
    """Extend the leases of deliveries that `owner` still holds."""
    session.execute(
        update(DeliveryRow).where(DeliveryRow.id.in_(delivery_ids), _leased_to(owner)).values(lease_until=until)
    )


def still_leased(session: Session, delivery_ids: Sequence[int], owner: str) -> set[int]:
    """Those of claimed deliveries that are still `owner`'s to send: others were superseded meanwhile."""
    return set(session.scalars(select(DeliveryRow.id).where(DeliveryRow.id.in_(delivery_ids), _leased_to(owner))))


def _leased_to(owner: str) -> ColumnElement[bool]:
    return and_(DeliveryRow.state == DeliveryState.SENDING, DeliveryRow.lease_owner == owner)


def end_delivery(session: Session, delivery_id: int, owner: str, values: dict[str, Any]) -> bool:
    """Give a leased delivery its next state; False when another owner has the lease.

    A delivery that was superseded while it was under way is delivered if it arrived, and otherwise stays superseded.
    """
    row = update(DeliveryRow).where(DeliveryRow.id == delivery_id).returning(DeliveryRow.id)
    ended = session.execute(row.where(_leased_to(owner)).values(lease_owner=None, lease_until=None, **values)).first()
    if ended is None and values["state"] == DeliveryState.DELIVERED:
        superseded = row.where(DeliveryRow.state == DeliveryState.SUPERSEDED)
        ended = session.execute(superseded.values(**values | {"commitment": None})).first()
    return ended is not None


def supersede_deliveries(
    session: Session, series_ids: Sequence[int], study_instance_uids: Collection[str], reason: str, detail: str
) -> None:
    """Withdraw what has not arrived of the results of series and of their studies: it is of images that are no more.

    Of what has arrived no storage commitment is requested any more: what a peer no longer had would be sent again.
    """
    of_series = select(ResultRow.id).where(ResultRow.series_id.in_(series_ids))
    of_studies = (
        select(StudyResultRow.id)
        .join(StudyRow, StudyRow.id == StudyResultRow.study_id)
        .where(StudyRow.study_instance_uid.in_(study_instance_uids))
    )
    rows = session.scalars(
        select(DeliveryRow)
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .where(or_(ObjectRow.result_id.in_(of_series), ObjectRow.study_result_id.in_(of_studies)))
        .where(DeliveryRow.state != DeliveryState.SUPERSEDED)
        .order_by(DeliveryRow.id)
        .with_for_update(of=DeliveryRow),
        execution_options={"populate_existing": True},
    ).all()
    for row in rows:
        if row.state != DeliveryState.DELIVERED:
            row.state, row.lease_owner, row.lease_until = DeliveryState.SUPERSEDED, None, None
            row.reason, row.detail = reason, detail
        elif row.commitment != Commitment.CONFIRMED:
            row.commitment, row.ask_again_at = None, None
    session.flush()


def claim_commitments(
    session: Session, destination: str, transaction_uid: str, now: datetime, ask_again_at: datetime, limit: int = 256
) -> list[tuple[str, str]]:
    """Mark delivered objects as requested for storage commitment; their (SOP class, SOP instance) UIDs."""
    due = or_(
        DeliveryRow.commitment == Commitment.DUE,
        and_(DeliveryRow.commitment == Commitment.REQUESTED, DeliveryRow.ask_again_at <= now),
    )
    rows = session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.destination == destination, DeliveryRow.state == DeliveryState.DELIVERED, due)
        .where(or_(DeliveryRow.ask_again_at.is_(None), DeliveryRow.ask_again_at <= now))
        .order_by(DeliveryRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        row.commitment, row.transaction_uid = Commitment.REQUESTED, transaction_uid
        row.ask_again_at = ask_again_at
    session.flush()
    of_rows = select(ObjectRow).where(ObjectRow.id.in_([row.object_id for row in rows]))
    classes = {produced.sop_instance_uid: produced.sop_class_uid for produced in session.scalars(of_rows)}
    # A Comprehensive SR, for a peer without Comprehensive 3D SR, has a UID of its own.
    return [(classes.get(row.sent_as or "", standard.COMPREHENSIVE_SR), row.sent_as or "") for row in rows]


def record_commitment_report(database: Database, information: Dataset, now: datetime) -> int:
    """Apply a peer's N-EVENT-REPORT; the status to answer."""
    from worker.dicom import commitment

    try:
        report = commitment.read_report(information)
    except commitment.MalformedCommitment:
        return standard.PROCESSING_FAILURE
    with database.write() as session:
        confirmed, again = apply_commitment(session, report, now)
        hand_overs.record_report(session, report)
    get_log().info("storage commitment report", confirmed=confirmed, sent_again=again)
    return standard.SUCCESS


def apply_commitment(session: Session, report: commitment.CommitmentReport, now: datetime) -> tuple[int, int]:
    """Record a peer's report: (confirmed, to be sent again). Objects that the transaction did not name are ignored."""
    rows = session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.transaction_uid == report.transaction_uid)
        .where(DeliveryRow.commitment == Commitment.REQUESTED)
        .with_for_update()
    ).all()
    confirmed = again = 0
    for row in rows:
        if row.sent_as in report.failed:
            row.state, row.not_before, row.commitment, row.ask_again_at = DeliveryState.PENDING, now, None, None
            row.reason = "commitment-failed"
            row.detail = f"the peer no longer has the object (0x{report.failed[row.sent_as]:04X}); it is sent again"
            again += 1
        elif row.sent_as in report.committed:
            row.commitment, row.ask_again_at = Commitment.CONFIRMED, None
            confirmed += 1
    session.flush()
    return confirmed, again


# --- again -----------------------------------------------------------------------------------------------------


def retry_failed_deliveries(
    session: Session,
    now: datetime,
    delivery_ids: Sequence[int] = (),
    destination: str | None = None,
    *,
    waiting: bool = False,
) -> list[int]:
    """Return failed deliveries to pending, of a destination if it is given; the numbers of those that are tried now.

    A pending delivery is tried now where it is named, or with `waiting`, as after a destination was mended.
    """
    states = [DeliveryState.FAILED, *([DeliveryState.PENDING] if delivery_ids or waiting else [])]
    chosen: list[ColumnElement[bool]] = [DeliveryRow.state.in_(states)]
    if delivery_ids:
        chosen.append(DeliveryRow.id.in_(delivery_ids))
    if destination is not None:
        chosen.append(DeliveryRow.destination == destination)
    fresh: dict[str, Any] = {"state": DeliveryState.PENDING, "rejections": 0, "not_before": now, "commitment": None}
    return list(session.scalars(update(DeliveryRow).where(*chosen).values(**fresh).returning(DeliveryRow.id)))


@dataclass(frozen=True, slots=True)
class SentAgain:
    """Numbers of deliveries: sent `again` though they had arrived or failed, and `added` for a new destination."""

    again: tuple[int, ...] = ()
    added: tuple[int, ...] = ()


def resend_objects(
    session: Session, object_ids: Sequence[int], destination: str, kinds: Collection[str], now: datetime
) -> SentAgain:
    """Send objects of these kinds to a destination, whether or not they were sent there before.

    A delivery that is under way is left alone, and what was withdrawn stays withdrawn: its images are no more.
    """
    objects = list(
        session.scalars(
            select(ObjectRow)
            .where(ObjectRow.id.in_(object_ids), ObjectRow.kind.in_(kinds))
            .order_by(ObjectRow.id)
            .with_for_update()
        )
    )
    ids = [produced.id for produced in objects]
    of_objects = (DeliveryRow.object_id.in_(ids), DeliveryRow.destination == destination)
    known = set(session.scalars(select(DeliveryRow.object_id).where(*of_objects)))
    ended = DeliveryRow.state.in_([DeliveryState.DELIVERED, DeliveryState.FAILED, DeliveryState.PENDING])
    fresh: dict[str, Any] = {"state": DeliveryState.PENDING, "attempts": 0, "rejections": 0, "not_before": now}
    fresh |= {"reason": None, "detail": None, "status": None, "delivered_at": None, "sent_as": None}
    fresh |= {"commitment": None, "transaction_uid": None, "ask_again_at": None}
    again = session.scalars(update(DeliveryRow).where(*of_objects, ended).values(**fresh).returning(DeliveryRow.id))
    numbers = tuple(sorted(again))
    added = [
        DeliveryRow(object_id=number, destination=destination, not_before=now) for number in ids if number not in known
    ]
    session.add_all(added)
    session.flush()
    return SentAgain(numbers, tuple(row.id for row in added))


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is sent again: the objects of these deliveries, or those of the newest results, which replaced the others:
    of each study, and of each series by each model.

    Of a study and its series, of a series, or of results since a time.
    """

    delivery_ids: tuple[int, ...] = ()
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    since: datetime | None = None


def resend(database: Database, chosen: Chosen, destination: str, kinds: Collection[str], now: datetime) -> SentAgain:
    """As `resend_objects`, in bounded transactions, of which none holds up a sender for long."""
    again: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    after = 0
    while True:
        with database.write() as session:
            ids = _objects_of(session, chosen, after)
            sent = resend_objects(session, ids, destination, kinds, now)
        again, added = again + sent.again, added + sent.added
        if len(ids) < _RESENT_AT_ONCE:
            return SentAgain(again, added)
        after = ids[-1]


def _objects_of(session: Session, chosen: Chosen, after: int) -> list[int]:
    """The next ids, above `after`, of what is chosen."""
    is_withdrawn = (
        select(DeliveryRow.id)
        .where(DeliveryRow.object_id == ObjectRow.id, DeliveryRow.state == DeliveryState.SUPERSEDED)
        .exists()
    )
    query = select(ObjectRow.id).where(ObjectRow.id > after, ~is_withdrawn)
    query = query.order_by(ObjectRow.id).limit(_RESENT_AT_ONCE)
    if chosen.delivery_ids:
        of_deliveries = select(DeliveryRow.object_id).where(DeliveryRow.id.in_(chosen.delivery_ids))
        return list(session.scalars(query.where(ObjectRow.id.in_(of_deliveries))))
    newer, newer_of_study = aliased(ResultRow), aliased(StudyResultRow)
    is_replaced = or_(
        select(newer.id)
        .where(newer.series_id == ResultRow.series_id, newer.model_id == ResultRow.model_id, newer.id > ResultRow.id)
        .exists(),
        select(newer_of_study.id)
        .where(newer_of_study.study_id == StudyResultRow.study_id, newer_of_study.number > StudyResultRow.number)
        .exists(),
    )
    query = (
        query.outerjoin(ResultRow, ResultRow.id == ObjectRow.result_id)
        .outerjoin(SeriesRow, SeriesRow.id == ResultRow.series_id)
        .outerjoin(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
        .outerjoin(StudyRow, StudyRow.id == StudyResultRow.study_id)
        .where(~is_replaced)
    )
    if chosen.study_instance_uid is not None:
        of_study = (SeriesRow.study_instance_uid, StudyRow.study_instance_uid)
        query = query.where(or_(*(uid == chosen.study_instance_uid for uid in of_study)))
    if chosen.series_instance_uid is not None:
        query = query.where(SeriesRow.series_instance_uid == chosen.series_instance_uid)
    if chosen.since is not None:
        query = query.where(or_(ResultRow.created_at >= chosen.since, StudyResultRow.created_at >= chosen.since))
    return list(session.scalars(query))
