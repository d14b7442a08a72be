"""Rows of a correction: an instance gets other content, its earlier version stays, and its series settle again.

All of it is one transaction of the caller, so that an instance is as it was or corrected, whatever dies. The file of an
earlier version stays where it is: files are named by their content.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from worker.db.deliveries import supersede_deliveries
from worker.db.instances import IDENTITY_KEY, NewInstance
from worker.db.series_status import answer_series
from worker.db.studies.opening import open_studies
from worker.db.tables import (
    EarlierVersionRow,
    InstanceRow,
    JobRow,
    JobState,
    SeriesRow,
    SeriesState,
)

SUPERSEDED_REASON = "images-corrected"
PARTLY_CORRECTED = "partly-corrected"  # the reason of a series that is refused until all of it is corrected
_SUPERSEDED_DETAIL = "the images were corrected; a revised report follows once their series has settled again"
_OPEN_JOBS = (JobState.PENDING, JobState.RUNNING, JobState.PARKED)
_KEPT = ("association_id", "transfer_syntax_uid", "attributes", "path", "size", "sha256", "received_at", "removed_at")
_REPLACED = ("association_id", "sop_class_uid", "transfer_syntax_uid", "attributes", "path", "size", "sha256")
_OF_SERIES = ("patient_id", "patient_name", "accession_number", "study_date", "modality", "series_description")


@dataclass(frozen=True, slots=True)
class Correction:
    """What an instance was corrected from and to: (Study Instance UID, Patient ID), for the audit trail."""

    sop_class_uid: str
    before: tuple[str, str]
    after: tuple[str, str]


def lock_instances(session: Session, ids: Collection[int]) -> None:
    """Lock and reread rows whose content may change: of two receivers the second sees what the first made of them."""
    locked = select(InstanceRow).where(InstanceRow.id.in_(ids)).order_by(InstanceRow.id).with_for_update()
    session.scalars(locked, execution_options={"populate_existing": True}).all()


def correct_instances(
    session: Session, corrected: Sequence[tuple[InstanceRow, NewInstance]], now: datetime, by: str | None = None
) -> list[Correction]:
    """Replace the content of instances, whose rows are locked. `by`: who decided it; None where it was sent again.

    Series are opened, with those that an instance leaves; their unfinished jobs and deliveries are superseded, because
    their input sets are no more.
    """
    series = _lock_series(session, corrected, now)
    by_id = {row.id: row for row in series.values()}
    studies = {row.study_instance_uid for row in by_id.values()}  # those that a series leaves, too
    filled = select(InstanceRow.series_id).where(InstanceRow.series_id.in_(list(by_id))).distinct()
    empty = set(by_id) - set(session.scalars(filled))
    corrections: list[Correction] = []
    for row, new in corrected:
        source, target = by_id[row.series_id], series[new.series_instance_uid]
        corrections.append(Correction(row.sop_class_uid, _whose(row, source), (new.study_instance_uid, new.patient_id)))
        kept = {name: getattr(row, name) for name in _KEPT}
        session.add(EarlierVersionRow(instance_id=row.id, series_id=source.id, replaced_at=now, replaced_by=by, **kept))
        for name in _REPLACED:
            setattr(row, name, getattr(new, name))
        row.series_id, row.received_at, row.removed_at = target.id, now, None
        if _identity_of(kept["attributes"]) != _identity_of(new.attributes):
            source.attributes_changed_at = target.attributes_changed_at = now
        if target is source or target.id in empty:  # an image that joins others says nothing of theirs
            _describe(target, new)
    session.flush()
    _settle_again(session, by_id.values(), studies, now)
    open_studies(session, studies)
    return corrections


def _lock_series(
    session: Session, corrected: Sequence[tuple[InstanceRow, NewInstance]], now: datetime
) -> dict[str, SeriesRow]:
    """The series of instances, before and after, by UID; those that are not known are created."""
    ids, of_uid = {row.series_id for row, _ in corrected}, {new.series_instance_uid: new for _, new in corrected}
    rows = session.scalars(
        select(SeriesRow)
        .where(or_(SeriesRow.id.in_(ids), SeriesRow.series_instance_uid.in_(list(of_uid))))
        .order_by(SeriesRow.id)
        .with_for_update(),
        execution_options={"populate_existing": True},
    )
    series = {row.series_instance_uid: row for row in rows}
    for uid in of_uid.keys() - series.keys():
        series[uid] = SeriesRow(
            series_instance_uid=uid,
            study_instance_uid=of_uid[uid].study_instance_uid,
            created_at=now,
            last_received_at=now,
            corrections=0,
            **{name: getattr(of_uid[uid], name) for name in _OF_SERIES},
        )
        session.add(series[uid])
    session.flush()
    return series


def _identity_of(attributes: Mapping[str, object]) -> object:
    return attributes.get(IDENTITY_KEY)


def _whose(row: InstanceRow, series: SeriesRow) -> tuple[str, str]:
    """(Study Instance UID, Patient ID) of an instance; an earlier worker recorded the series' only."""
    identity = row.attributes.get(IDENTITY_KEY) or {}
    return identity.get("study", series.study_instance_uid), identity.get("patient", series.patient_id)


def _describe(series: SeriesRow, new: NewInstance) -> None:
    """The values by which the series is found."""
    if series.study_instance_uid != new.study_instance_uid:
        series.first_study_instance_uid = series.first_study_instance_uid or series.study_instance_uid
        series.study_instance_uid = new.study_instance_uid
    for name in _OF_SERIES:
        setattr(series, name, getattr(new, name))


def _settle_again(session: Session, series: Collection[SeriesRow], left: Collection[str], now: datetime) -> None:
    """Let series settle again. `left`: the studies that they were in before."""
    for row in series:
        row.state, row.reason, row.detail, row.last_received_at = SeriesState.OPEN, None, None, now
        row.corrections += 1
    session.flush()
    ids = sorted(row.id for row in series)
    session.execute(
        update(JobRow)
        .where(JobRow.series_id.in_(ids), JobRow.state.in_(_OPEN_JOBS))
        .values(
            state=JobState.SUPERSEDED,
            reason=SUPERSEDED_REASON,
            lease_owner=None,
            lease_until=None,
            finished_at=now,
        )
        .execution_options(synchronize_session=False)
    )
    studies = {*left, *(row.study_instance_uid for row in series)}
    supersede_deliveries(session, ids, studies, SUPERSEDED_REASON, _SUPERSEDED_DETAIL)
    answer_series(session, ids)


def identities_before(session: Session, series_id: int) -> dict[int, list[Mapping[str, str]]]:
    """Whose image each corrected instance of a series was in its earlier versions, where that was recorded."""
    rows = session.execute(
        select(EarlierVersionRow.instance_id, EarlierVersionRow.attributes)
        .join(InstanceRow, InstanceRow.id == EarlierVersionRow.instance_id)
        .where(InstanceRow.series_id == series_id)
        .order_by(EarlierVersionRow.id)
    )
    before: dict[int, list[Mapping[str, str]]] = defaultdict(list)
    for instance_id, attributes in rows:
        if IDENTITY_KEY in attributes:
            before[instance_id].append(attributes[IDENTITY_KEY])
    return before


def corrected_at(session: Session, series_id: int) -> datetime | None:
    """When a sender last corrected an image of a series; an accepted conflict is a person's decision."""
    of_series = (InstanceRow.series_id == series_id, EarlierVersionRow.replaced_by.is_(None))
    latest = select(func.max(EarlierVersionRow.replaced_at)).join(
        InstanceRow, InstanceRow.id == EarlierVersionRow.instance_id
    )
    return session.scalar(latest.where(*of_series))


def is_named(session: Session, instance_id: int, path: str) -> bool:
    """Whether an instance, as it is or was, has its file at that path."""
    current = select(InstanceRow.id).where(InstanceRow.id == instance_id, InstanceRow.path == path)
    earlier = select(EarlierVersionRow.id).where(
        EarlierVersionRow.instance_id == instance_id,
        EarlierVersionRow.path == path,
        EarlierVersionRow.removed_at.is_(None),
    )
    return session.scalar(current) is not None or session.scalar(earlier.limit(1)) is not None


def earlier_versions(session: Session, series_id: int) -> Sequence[EarlierVersionRow]:
    """The earlier versions, whose files are not deleted, of the instances that a series has now."""
    return session.scalars(
        select(EarlierVersionRow)
        .join(InstanceRow, InstanceRow.id == EarlierVersionRow.instance_id)
        .where(InstanceRow.series_id == series_id, EarlierVersionRow.removed_at.is_(None))
        .order_by(EarlierVersionRow.id)
    ).all()
