"""Rows of series: locked while they settle, refused or queued, opened again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.orm import Session, object_session

from worker.db.instances import NewInstance, input_sha256, instances_of
from worker.db.models import NotPossible
from worker.db.series_status import answer_series
from worker.db.studies.opening import open_studies
from worker.db.tables import (
    DETAIL_LENGTH,
    AssociationEnd,
    AssociationRow,
    InstanceRow,
    JobRow,
    JobState,
    ModelRow,
    ModelState,
    SeriesRow,
    SeriesState,
    SeriesStatus,
    ShadowResultRow,
    cut_detail,
)

if TYPE_CHECKING:  # a command that only queries starts without pydicom and numpy
    from worker.dicom.series_type import SeriesType

MOVED = "moved"  # the reason of a series that all its images have left
INCOMPLETE = "incomplete"  # the reason of a series that is refused for what is missing


def lock_open_series(session: Session, series_id: int, not_after: datetime) -> SeriesRow | None:
    """Lock a series if it is still open and silent since `not_after`; a late instance waits for our commit."""
    return session.scalar(
        select(SeriesRow)
        .where(SeriesRow.id == series_id, SeriesRow.state == SeriesState.OPEN)
        .where(SeriesRow.last_received_at <= not_after)
        .with_for_update()
    )


def record_series_type(series: SeriesRow, series_type: SeriesType) -> None:
    """Record what the series is by its headers."""
    series.series_type = series_type.as_json()
    series.sequence, series.contrast_agent = str(series_type.sequence), str(series_type.contrast_agent)
    series.plane = series_type.plane


def refuse_series(series: SeriesRow, reason: str, detail: str, now: datetime, rules: str | None = None) -> None:
    """Refuse a series, which opens its study; `rules` is the fingerprint of the rules: see
    `record_repetitions`.
    """
    series.rules = rules
    series.state, series.reason, series.detail = SeriesState.REFUSED, reason, detail[:DETAIL_LENGTH]
    series.settled_at = now
    series.status, series.label, series.probability = SeriesStatus.REFUSED, None, None
    series.answered_job_id = None
    if (session := object_session(series)) is not None:
        session.flush()
        open_studies(session, [series.study_instance_uid])


def queue_series(
    session: Session,
    series: SeriesRow,
    model_id: int,
    now: datetime,
    missing: str | None = None,
    *,
    shadow: bool = False,
    urgent: bool = False,
) -> JobRow | None:
    """Add a pending job for the instances that the series has now; None when the model has a job for this input set.

    Pending jobs for a smaller input set, of any model, are superseded. `missing`: what is known to be missing. An
    `urgent` job is claimed before all that are not.
    """
    instances = instances_of(session, series.id)
    series.state, series.reason, series.detail, series.settled_at = SeriesState.QUEUED, None, None, now
    digest = input_sha256(instances, series.corrections)
    of_series = JobRow.series_id == series.id
    same = (of_series, JobRow.model_id == model_id, JobRow.input_sha256 == digest)
    if session.scalar(select(JobRow.id).where(*same)) is not None:
        return None
    session.execute(
        update(JobRow)
        .where(of_series, JobRow.state == JobState.PENDING, JobRow.input_sha256 != digest)
        .values(state=JobState.SUPERSEDED, reason="more-instances-came", finished_at=now)
    )
    job = JobRow(
        series_id=series.id,
        model_id=model_id,
        input_sha256=digest,
        last_instance_id=instances[-1].id,
        missing=cut_detail(missing),
        shadow=shadow,
        urgent=urgent,
        not_before=now,
        created_at=now,
    )
    session.add(job)
    session.flush()
    return job


# --- again -----------------------------------------------------------------------------------------------------


def record_repetitions(
    session: Session, repeated: Sequence[tuple[InstanceRow, NewInstance]], rules: str | None, now: datetime
) -> None:
    """Record that stored instances came again, each with what came.

    They count as brought by the later association unless the earlier association was released, so that a transfer that
    broke off is made good by another. A series that was refused by other rules than `rules`, or for what was missing,
    opens again.
    """
    by_association: dict[int, list[int]] = defaultdict(list)
    for row, new in repeated:
        if new.association_id is not None and row.association_id not in (None, new.association_id):
            by_association[new.association_id].append(row.id)
    for association_id, instance_ids in sorted(by_association.items()):
        was_released = (
            select(AssociationRow.id)
            .where(AssociationRow.id == InstanceRow.association_id, AssociationRow.ended == AssociationEnd.RELEASED)
            .exists()
        )
        session.execute(
            update(InstanceRow)
            .where(InstanceRow.id.in_(instance_ids), ~was_released)
            .values(association_id=association_id)
            .execution_options(synchronize_session=False)
        )
    if rules is not None and repeated:
        reopened = _reopen_refused_by_others(session, sorted({row.series_id for row, _ in repeated}), rules, now)
        for row, new in repeated:
            if row.series_id in reopened:
                row.attributes = new.attributes  # later rules may read what was not recorded before


def _reopen_refused_by_others(session: Session, series_ids: Sequence[int], rules: str, now: datetime) -> set[int]:
    """Open the refused ones of these series whose refusal `rules` may not repeat; their row ids."""
    locked = (
        select(SeriesRow.id)
        .where(SeriesRow.id.in_(series_ids), SeriesRow.state == SeriesState.REFUSED)
        .where(or_(SeriesRow.rules.is_(None), SeriesRow.rules != rules, SeriesRow.reason == INCOMPLETE))
        .order_by(SeriesRow.id)
        .with_for_update()
    )
    reopened = session.scalars(
        update(SeriesRow)
        .where(SeriesRow.id.in_(locked))
        .values(state=SeriesState.OPEN, reason=None, detail=None, last_received_at=now)
        .returning(SeriesRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    answer_series(session, reopened)
    return set(reopened)


def reconsider_series(session: Session, series_instance_uid: str) -> bool:
    """Open a refused series again, so that it settles by the rules of now; False where it is not refused."""
    return bool(_open_refused(session, SeriesRow.series_instance_uid == series_instance_uid, 1))


def reconsider_refused(session: Session, after: int, limit: int = 500) -> list[int]:
    """Open the next refused series after a row id, as above; their row ids in order, none at the end."""
    return _open_refused(session, SeriesRow.id > after, limit)


def _open_refused(session: Session, condition: ColumnElement[bool], limit: int) -> list[int]:
    refused = select(SeriesRow.id).where(SeriesRow.state == SeriesState.REFUSED, condition).order_by(SeriesRow.id)
    ids = list(session.scalars(refused.limit(limit).with_for_update()))
    session.execute(
        update(SeriesRow)
        .where(SeriesRow.id.in_(ids))
        .values(state=SeriesState.OPEN, reason=None, detail=None)
        .execution_options(synchronize_session=False)
    )
    answer_series(session, ids)
    return ids


def classify_again(session: Session, series_instance_uid: str, model: ModelRow, now: datetime) -> JobRow:
    """Queue a job of a model for the images of a series that was answered, beside what other models answered.

    The model need not be active; its answer becomes that of the series. What it said in shadow of the same images is
    deleted. Raises NotPossible.
    """
    series = session.scalar(
        select(SeriesRow).where(SeriesRow.series_instance_uid == series_instance_uid).with_for_update()
    )
    if series is None or series.state != SeriesState.QUEUED:
        is_refused = series is not None and series.state == SeriesState.REFUSED
        why = "is refused: have it settled again first" if is_refused else "is not settled yet"
        raise NotPossible("series-not-settled", f"the series {why}")
    if model.state == ModelState.REMOVED:
        raise NotPossible("model-removed", "the model was removed; add it again with worker models add")
    if any(instance.removed_at is not None for instance in instances_of(session, series.id)):
        raise NotPossible("pixels-removed", "images of the series were deleted by retention; send it again")
    _delete_shadow_job(session, series, model)
    job = queue_series(session, series, model.id, now)
    if job is None:
        raise NotPossible("model-has-job", f"{model.name} {model.version} has a job for these images already")
    answer_series(session, [series.id])
    return job


def _delete_shadow_job(session: Session, series: SeriesRow, model: ModelRow) -> None:
    """Delete the shadow job of a model for the images that a locked series has. Raises NotPossible while it runs."""
    digest = input_sha256(instances_of(session, series.id), series.corrections)
    of_model = (JobRow.series_id == series.id, JobRow.model_id == model.id, JobRow.input_sha256 == digest)
    job = session.scalar(select(JobRow).where(*of_model, JobRow.shadow).with_for_update())
    if job is None:
        return
    if job.state == JobState.RUNNING:
        raise NotPossible("model-has-job", f"{model.name} {model.version} runs in shadow on these images: try again")
    session.execute(delete(ShadowResultRow).where(ShadowResultRow.job_id == job.id))
    session.delete(job)
    session.flush()
