"""What the objects of a study need of its series: the images that were read, the deciding slices, and the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.db.instances import StoredFile
from worker.db.tables import FileKind, InstanceRow, JobRow, ResultRow, SeriesRow, SeriesStatus, SliceResultRow
from worker.results import Activation, SliceResult


@dataclass(frozen=True, slots=True)
class SeriesContents:
    """A series of a study; without images and slices where it has no result of the study's model.

    `images`: (SOP Class UID, SOP Instance UID) in order of arrival. `key_slices`: deciding slices with their numbers of
    `slices`, from 1. `files` by SOP Instance UID, without those that retention deleted.
    """

    description: str
    contrast_agent: str | None
    images: tuple[tuple[str, str], ...]
    slices: int
    key_slices: tuple[tuple[int, SliceResult], ...]
    files: Mapping[str, StoredFile]


def study_contents(session: Session, study_instance_uid: str, model_id: int) -> dict[str, SeriesContents]:
    """The contents of each series of a study, by Series Instance UID, with the results of a model."""
    rows = session.execute(
        select(SeriesRow, ResultRow.id, JobRow.last_instance_id)
        .outerjoin(JobRow, JobRow.id == SeriesRow.answered_job_id)
        .outerjoin(ResultRow, (ResultRow.job_id == JobRow.id) & (ResultRow.model_id == model_id))
        .where(SeriesRow.study_instance_uid == study_instance_uid)
        .execution_options(populate_existing=True)
    ).all()
    return {series.series_instance_uid: _contents(session, series, result, last) for series, result, last in rows}


def _contents(
    session: Session, series: SeriesRow, result_id: int | None, last_instance_id: int | None
) -> SeriesContents:
    instances = []
    if series.status not in (SeriesStatus.CLASSIFIED, SeriesStatus.NOT_ASSESSED):
        result_id = None  # of a series that was refused since
    if result_id is not None:
        instances = list(
            session.execute(
                select(
                    InstanceRow.id, InstanceRow.sop_class_uid, InstanceRow.sop_instance_uid, InstanceRow.path,
                    InstanceRow.sha256, InstanceRow.size, InstanceRow.removed_at,
                )
                .where(InstanceRow.series_id == series.id, InstanceRow.id <= last_instance_id)
                .order_by(InstanceRow.id)
            )
        )  # fmt: skip
    return SeriesContents(
        description=series.series_description,
        contrast_agent=series.contrast_agent,
        images=tuple((row.sop_class_uid, row.sop_instance_uid) for row in instances),
        slices=_count(session, result_id),
        key_slices=_key_slices(session, result_id),
        files={
            row.sop_instance_uid: StoredFile(FileKind.INSTANCE, row.id, row.path, row.sha256, row.size)
            for row in instances
            if row.removed_at is None
        },
    )


def _count(session: Session, result_id: int | None) -> int:
    of_result = SliceResultRow.result_id == result_id
    return session.scalar(select(func.count()).select_from(SliceResultRow).where(of_result)) or 0


def _key_slices(session: Session, result_id: int | None) -> tuple[tuple[int, SliceResult], ...]:
    rows = session.execute(
        select(SliceResultRow, InstanceRow.sop_class_uid, InstanceRow.sop_instance_uid)
        .join(InstanceRow, InstanceRow.id == SliceResultRow.instance_id)
        .where(SliceResultRow.result_id == result_id, SliceResultRow.deciding)
        .order_by(SliceResultRow.ordinal)
    )
    return tuple((row.ordinal + 1, _slice(row, sop_class, uid)) for row, sop_class, uid in rows)


def _slice(row: SliceResultRow, sop_class_uid: str, sop_instance_uid: str) -> SliceResult:
    return SliceResult(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        frame_number=row.frame_number,
        position_mm=row.position_mm,
        probabilities=tuple(row.probabilities),
        in_distribution=row.in_distribution,
        deciding=row.deciding,
        activation=stored_activation(row.activation),
        distance=row.distance,
    )


def stored_activation(stored: dict[str, Any] | None) -> Activation | None:
    """A map as its row has it; None without a map."""
    return Activation(**stored) if stored else None
