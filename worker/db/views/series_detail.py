"""Details of a series beside its answer: slices with their files and maps, the picture, the report, the open job."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.db.instances import StoredFile, file_of
from worker.db.settling import refused_instances_of
from worker.db.studies.contents import stored_activation
from worker.db.tables import (
    InstanceRow,
    JobRow,
    JobState,
    ModelRow,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    SliceResultRow,
)
from worker.results import Activation

LARGEST_SERIES = 4000


@dataclass(frozen=True, slots=True)
class ShownSlice:
    """A slice to display, with the model's answer on it if there is any. `file` is None once it is deleted."""

    file: str | None
    frame_number: int | None
    position_mm: float | None = None
    probabilities: tuple[float, ...] = ()
    in_distribution: bool = True
    deciding: bool = False
    activation: Activation | None = None
    stored: StoredFile | None = field(default=None, compare=False)  # as `file`


@dataclass(frozen=True, slots=True)
class RefusedImages:
    """How many images of a series were refused with a status for a reason, and did not come again."""

    status: str
    reason: str
    number: int


def refused_images(session: Session, series_instance_uid: str) -> tuple[RefusedImages, ...]:
    """What a series may lack because it was refused."""
    refused = refused_instances_of(session, series_instance_uid)
    return tuple(RefusedImages(status, reason, number) for (status, reason), number in refused.items())


@dataclass(frozen=True, slots=True)
class SeriesDetail:
    """`open_job` is (number, state) of an unfinished job; `picture` is the path of the produced picture.

    `label` is that of the result, None without a class, and `model_sha256` the bundle hash of its model.
    """

    slices: tuple[ShownSlice, ...]
    picture: str | None
    open_job: tuple[int, str] | None
    refused: tuple[RefusedImages, ...] = ()
    label: str | None = None
    model_sha256: str | None = None


def find_series_detail(session: Session, series_instance_uid: str) -> SeriesDetail | None:
    """None for a series that was not received."""
    series = session.scalar(select(SeriesRow).where(SeriesRow.series_instance_uid == series_instance_uid))
    if series is None:
        return None
    result = session.execute(
        select(ResultRow.id, ResultRow.label, ModelRow.sha256)
        .join(ModelRow, ModelRow.id == ResultRow.model_id)
        .where(ResultRow.job_id == series.answered_job_id)
    ).first()
    result_id, label, sha256 = result or (None, None, None)
    picture = select(ObjectRow.path).where(ObjectRow.result_id == result_id, ObjectRow.kind == ObjectKind.PICTURE)
    job = session.execute(
        select(JobRow.id, JobRow.state)
        .where(JobRow.series_id == series.id, ~JobRow.shadow)
        .where(JobRow.state.in_([JobState.PENDING, JobState.RUNNING, JobState.PARKED]))
        .order_by(JobRow.id.desc())
        .limit(1)
    ).first()
    return SeriesDetail(
        slices=tuple(_classified(session, result_id) or _received(session, series.id)),
        picture=session.scalar(picture) if result_id is not None else None,
        open_job=(job.id, job.state) if job else None,
        refused=refused_images(session, series_instance_uid),
        label=label,
        model_sha256=sha256,
    )


@dataclass(frozen=True, slots=True)
class SliceAnswer:
    """A slice of the latest result."""

    ordinal: int
    sop_instance_uid: str
    frame_number: int | None
    position_mm: float | None
    probabilities: list[float]
    in_distribution: bool
    deciding: bool


def latest_slices(session: Session, series_instance_uid: str) -> list[SliceAnswer]:
    """The slices of the latest result of a series, in stack order."""
    latest = (
        select(func.max(ResultRow.id))
        .join(SeriesRow, SeriesRow.id == ResultRow.series_id)
        .where(SeriesRow.series_instance_uid == series_instance_uid)
        .scalar_subquery()
    )
    rows = session.execute(
        select(SliceResultRow, InstanceRow.sop_instance_uid)
        .join(InstanceRow, InstanceRow.id == SliceResultRow.instance_id)
        .where(SliceResultRow.result_id == latest)
        .order_by(SliceResultRow.ordinal)
    ).all()
    return [
        SliceAnswer(
            ordinal=row.ordinal,
            sop_instance_uid=uid,
            frame_number=row.frame_number,
            position_mm=row.position_mm,
            probabilities=row.probabilities,
            in_distribution=row.in_distribution,
            deciding=row.deciding,
        )
        for row, uid in rows
    ]


@dataclass(frozen=True, slots=True)
class LatestReport:
    """`path` lies below the data folder; None where no model has answered the series."""

    path: str | None
    study_instance_uid: str


def find_report(session: Session, series_instance_uid: str) -> LatestReport | None:
    """The report that answers a series; None for a series that was not received."""
    row = session.execute(
        select(ObjectRow.path, SeriesRow.study_instance_uid)
        .select_from(SeriesRow)
        .outerjoin(ResultRow, ResultRow.job_id == SeriesRow.answered_job_id)
        .outerjoin(ObjectRow, (ObjectRow.result_id == ResultRow.id) & (ObjectRow.kind == ObjectKind.REPORT))
        .where(SeriesRow.series_instance_uid == series_instance_uid)
    ).first()
    return LatestReport(row.path, row.study_instance_uid) if row is not None else None


def _classified(session: Session, result_id: int | None) -> list[ShownSlice]:
    """The slices of a result, in stack order."""
    rows = session.execute(
        select(SliceResultRow, InstanceRow)
        .join(InstanceRow, InstanceRow.id == SliceResultRow.instance_id)
        .where(SliceResultRow.result_id == result_id)
        .order_by(SliceResultRow.ordinal)
    )
    return [
        ShownSlice(
            file=instance.path if instance.removed_at is None else None,
            frame_number=row.frame_number,
            position_mm=row.position_mm,
            probabilities=tuple(row.probabilities),
            in_distribution=row.in_distribution,
            deciding=row.deciding,
            activation=stored_activation(row.activation),
            stored=file_of(instance) if instance.removed_at is None else None,
        )
        for row, instance in rows
    ]


def _received(session: Session, series_id: int) -> list[ShownSlice]:
    """The images of a series without a result, in the order in which they came."""
    rows = session.scalars(
        select(InstanceRow).where(InstanceRow.series_id == series_id).order_by(InstanceRow.id).limit(LARGEST_SERIES)
    )
    slices: list[ShownSlice] = []
    for row in rows:
        frames = row.attributes.get("frames") or 1
        numbers = range(1, frames + 1) if frames > 1 else [None]
        stored = file_of(row) if row.removed_at is None else None
        slices += [ShownSlice(stored.path if stored else None, number, stored=stored) for number in numbers]
    return slices[:LARGEST_SERIES]
