"""Rows of results and of the objects made from them, written in one transaction (architecture, invariant 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select, true
from sqlalchemy.orm import Session, aliased

from worker.db.series_status import answer_series
from worker.db.tables import (
    DeliveryRow,
    EarlierVersionRow,
    InstanceRow,
    JobRow,
    ModelRow,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    ShadowResultRow,
    SliceResultRow,
    cut_detail,
)
from worker.dicom import standard

if TYPE_CHECKING:  # a command that only queries starts without pydicom and numpy
    from worker.results import SeriesResult


@dataclass(frozen=True, slots=True)
class NewObject:
    """A produced object whose file is on disk; `only_to` names the destinations that get it, None: all of them."""

    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    only_to: tuple[str, ...] | None = None


def has_result(session: Session, series_id: int) -> bool:
    """Whether a series has a result, shadow results apart."""
    return session.scalar(select(ResultRow.id).where(ResultRow.series_id == series_id).limit(1)) is not None


def add_result(
    session: Session,
    job: JobRow,
    result: SeriesResult,
    instance_ids: dict[str, int],
    objects: Sequence[NewObject],
    destinations: Sequence[str],
    now: datetime,
) -> ResultRow:
    """Add result, slices, objects and deliveries in the caller's transaction (architecture, invariant 4).

    `instance_ids` maps the SOP Instance UIDs of the job's instances to their rows.
    """
    row = ResultRow(
        job_id=job.id,
        series_id=job.series_id,
        model_id=job.model_id,
        status=result.status,
        label=result.label,
        probability=result.probability,
        probabilities=dict(result.probabilities),
        reason=result.reason,
        detail=cut_detail(result.detail),
        basis=asdict(result.basis) if result.basis else None,
        created_at=now,
    )
    session.add(row)
    session.flush()
    session.add_all(
        SliceResultRow(
            result_id=row.id,
            ordinal=ordinal,
            instance_id=instance_ids[slice_result.sop_instance_uid],
            frame_number=slice_result.frame_number,
            position_mm=slice_result.position_mm,
            probabilities=list(slice_result.probabilities),
            in_distribution=slice_result.in_distribution,
            deciding=slice_result.deciding,
            activation=asdict(slice_result.activation) if slice_result.activation else None,
            distance=slice_result.distance,
        )
        for ordinal, slice_result in enumerate(result.slices)
    )
    source, model = session.get_one(SeriesRow, job.series_id), session.get_one(ModelRow, job.model_id)
    for new in objects:
        series_uid = standard.produced_series_uid(
            new.kind, source.series_instance_uid, model.sha256, _other_study(source)
        )
        queue_object(session, new, series_uid, destinations, now, result_id=row.id)
    answer_series(session, [job.series_id])
    return row


def queue_object(
    session: Session,
    new: NewObject,
    series_instance_uid: str,
    destinations: Sequence[str],
    now: datetime,
    **result: int,
) -> None:
    """Add a produced object of a series of that UID, and its deliveries. `result`: result_id or study_result_id."""
    produced = ObjectRow(
        kind=new.kind,
        sop_class_uid=new.sop_class_uid,
        sop_instance_uid=new.sop_instance_uid,
        series_instance_uid=series_instance_uid,
        path=new.path,
        sha256=new.sha256,
        **result,
    )
    session.add(produced)
    session.flush()
    receiving = [name for name in destinations if new.only_to is None or name in new.only_to]
    session.add_all(DeliveryRow(object_id=produced.id, destination=name, not_before=now) for name in receiving)
    session.flush()


def add_shadow_result(session: Session, job: JobRow, result: SeriesResult, now: datetime) -> None:
    """Add the result of a shadow job, in the transaction that ends the job; nothing is sent, no series is answered."""
    session.add(
        ShadowResultRow(
            job_id=job.id,
            status=result.status,
            label=result.label,
            probability=result.probability,
            probabilities=dict(result.probabilities),
            reason=result.reason,
            detail=cut_detail(result.detail),
            basis=asdict(result.basis) if result.basis else None,
            created_at=now,
        )
    )
    session.flush()


def objects_of(session: Session, sop_instance_uids: Sequence[str], series_instance_uid: str = "") -> list[ObjectRow]:
    """The objects of these UIDs, and those of a produced series."""
    objects: list[ObjectRow] = []
    if series_instance_uid:
        objects += session.scalars(select(ObjectRow).where(ObjectRow.series_instance_uid == series_instance_uid))
    for start in range(0, len(sop_instance_uids), 500):  # SQLite limits the number of bound values
        uids = sop_instance_uids[start : start + 500]
        objects += session.scalars(select(ObjectRow).where(ObjectRow.sop_instance_uid.in_(uids)))
    return objects


@dataclass(frozen=True, slots=True)
class Lineage:
    """What the objects of a job follow: the stored paths of the reports that its report replaces, and `other_study`.

    That is the study of a series whose study was corrected, for `standard.produced_series_uid`.
    """

    predecessors: tuple[str, ...] = ()
    other_study: str | None = None


def lineage(session: Session, series_id: int, model_id: int) -> Lineage:
    """That of the next objects of a series by a model."""
    replaced = tuple(report.path for report in reports_to_replace(session, series_id, model_id))
    return Lineage(replaced, _other_study(session.get_one(SeriesRow, series_id)))


def _other_study(series: SeriesRow) -> str | None:
    is_other = series.first_study_instance_uid not in (None, series.study_instance_uid)
    return series.study_instance_uid if is_other else None


def reports_to_replace(session: Session, series_id: int, model_id: int) -> list[ObjectRow]:
    """The reports that the next report on a series by a model replaces.

    Its newest report, and the newest on each series from which all images were corrected into this series since.
    """
    latest = _newest_report(session, series_id, model_id)
    since = select(JobRow.created_at).join(ResultRow, ResultRow.job_id == JobRow.id)
    reported_at = session.scalar(since.where(ResultRow.id == latest.result_id)) if latest is not None else None
    remaining = aliased(InstanceRow)
    is_left = select(remaining.id).where(remaining.series_id == EarlierVersionRow.series_id).exists()
    left = (
        select(EarlierVersionRow.series_id)
        .join(InstanceRow, InstanceRow.id == EarlierVersionRow.instance_id)
        .where(InstanceRow.series_id == series_id, EarlierVersionRow.series_id != series_id, ~is_left)
        .where(EarlierVersionRow.replaced_at > reported_at if reported_at is not None else true())
        .distinct()
        .order_by(EarlierVersionRow.series_id)
    )
    reports = [_newest_report(session, other, model_id) for other in session.scalars(left).all()]
    return [report for report in (latest, *reports) if report is not None]


def _newest_report(session: Session, series_id: int, model_id: int) -> ObjectRow | None:
    return session.scalar(
        select(ObjectRow)
        .join(ResultRow, ResultRow.id == ObjectRow.result_id)
        .where(ResultRow.series_id == series_id, ResultRow.model_id == model_id, ObjectRow.kind == ObjectKind.REPORT)
        .order_by(ResultRow.id.desc())
        .limit(1)
    )
