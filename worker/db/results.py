"""Rows of results and of the objects made from them, written in one transaction (architecture, invariant 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from worker.db.series_status import answer_series
from worker.db.tables import (
    DETAIL_LENGTH,
    DeliveryRow,
    JobRow,
    ModelRow,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    ShadowResultRow,
    SliceResultRow,
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
        detail=result.detail[:DETAIL_LENGTH] if result.detail else None,
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
        produced = ObjectRow(
            result_id=row.id,
            kind=new.kind,
            sop_class_uid=new.sop_class_uid,
            sop_instance_uid=new.sop_instance_uid,
            series_instance_uid=standard.produced_series_uid(new.kind, source.series_instance_uid, model.sha256),
            path=new.path,
            sha256=new.sha256,
        )
        session.add(produced)
        session.flush()
        receiving = [name for name in destinations if new.only_to is None or name in new.only_to]
        session.add_all(DeliveryRow(object_id=produced.id, destination=name, not_before=now) for name in receiving)
    session.flush()
    answer_series(session, [job.series_id])
    return row


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
            detail=result.detail[:DETAIL_LENGTH] if result.detail else None,
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


def latest_report(session: Session, series_id: int, model_id: int) -> ObjectRow | None:
    """The newest report on a series by a model: the predecessor of its next report."""
    return session.scalar(
        select(ObjectRow)
        .join(ResultRow, ResultRow.id == ObjectRow.result_id)
        .where(ResultRow.series_id == series_id, ResultRow.model_id == model_id, ObjectRow.kind == ObjectKind.REPORT)
        .order_by(ResultRow.id.desc())
        .limit(1)
    )
