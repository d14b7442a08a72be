"""The rows of a study that an operator deletes: of its series, its answers, its readings and its deliveries.

A study that a process works on is not deleted: that process would write to rows that no longer exist.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from worker.db.engine import is_any_of
from worker.db.tables import (
    ConflictRow,
    DeliveryRow,
    DeliveryState,
    EarlierVersionRow,
    FileFaultRow,
    HandOverRow,
    InstanceRow,
    JobRow,
    JobState,
    ObjectRow,
    OtherStudyRow,
    ReadingRow,
    RefusedInstanceRow,
    ResultRow,
    SearchEntryRow,
    SearchWordRow,
    SeriesRow,
    SeriesState,
    ShadowResultRow,
    SliceResultRow,
    StudyCountRow,
    StudyReadingRow,
    StudyResultRow,
    StudyRow,
)
from worker.errors import WorkerError


class StudyInUse(WorkerError):
    """A process works on the study; `detail` says what to wait for."""


def lock_study_to_delete(session: Session, study_instance_uid: str) -> list[str] | None:
    """Lock a study; the paths of its files that no other study names, None where there is no such study.

    Raises StudyInUse while it is received, classified, answered or sent, or where an answer for another study rests on
    its images, which were corrected.
    """
    series = session.scalars(
        select(SeriesRow)
        .where(SeriesRow.study_instance_uid == study_instance_uid)
        .order_by(SeriesRow.id)
        .with_for_update()
    ).all()
    own = select(StudyRow).where(StudyRow.study_instance_uid == study_instance_uid).with_for_update()
    study = session.scalar(own)
    if not series and study is None:
        return None
    if any(row.state == SeriesState.OPEN for row in series):
        raise StudyInUse("study-in-use", "images of the study are being received; try again once its series settled")
    jobs = session.scalars(select(JobRow).where(JobRow.series_id.in_(_series(study_instance_uid))).with_for_update())
    if any(job.state == JobState.RUNNING for job in jobs.all()):
        raise StudyInUse("study-in-use", "a series of the study is being classified; try again")
    if study is not None and study.lease_owner is not None:
        raise StudyInUse("study-in-use", "the study is being answered; try again")
    of_objects = DeliveryRow.object_id.in_(_objects(study_instance_uid))
    deliveries = session.scalars(select(DeliveryRow).where(of_objects).with_for_update())
    if any(delivery.state == DeliveryState.SENDING for delivery in deliveries.all()):
        raise StudyInUse("study-in-use", "an object of the study is being sent; try again")
    elsewhere = (
        select(SliceResultRow.result_id)
        .join(ResultRow, ResultRow.id == SliceResultRow.result_id)
        .where(SliceResultRow.instance_id.in_(_instances(study_instance_uid)))
        .where(ResultRow.series_id.not_in(_series(study_instance_uid)))
    )
    if session.scalar(elsewhere.limit(1)) is not None:
        raise StudyInUse("study-in-use", "its images were corrected from another study; delete that study first")
    return _files(session, study_instance_uid)


def held_instances(session: Session, study_instance_uid: str) -> frozenset[tuple[str, str]]:
    """(SOP Instance UID, SHA-256 of its file) of every received instance of a study."""
    query = select(InstanceRow.sop_instance_uid, InstanceRow.sha256).where(
        InstanceRow.series_id.in_(_series(study_instance_uid))
    )
    return frozenset((uid, sha256) for uid, sha256 in session.execute(query))


def delete_study_rows(session: Session, study_instance_uid: str, paths: list[str]) -> None:
    """Delete a locked study, and the faults of its files, which are deleted."""
    uid = study_instance_uid
    series, results = _series(uid), select(ResultRow.id).where(ResultRow.series_id.in_(_series(uid)))
    jobs, instances = select(JobRow.id).where(JobRow.series_id.in_(series)), _instances(uid)
    study = select(StudyRow.id).where(StudyRow.study_instance_uid == uid)
    known = select(SeriesRow.series_instance_uid).where(SeriesRow.study_instance_uid == uid)
    entries = {
        entry
        for entry in session.scalars(select(SeriesRow.search_entry_id).where(SeriesRow.study_instance_uid == uid))
        if entry is not None
    }
    of_rows: list[tuple[type[Any], Any]] = [
        (DeliveryRow, DeliveryRow.object_id.in_(_objects(uid))),
        (ObjectRow, ObjectRow.id.in_(_objects(uid))),
        (StudyReadingRow, StudyReadingRow.study_id.in_(study)),
        (StudyResultRow, StudyResultRow.study_id.in_(study)),
        (ReadingRow, ReadingRow.series_id.in_(series)),
        (SliceResultRow, SliceResultRow.result_id.in_(results)),
        (ResultRow, ResultRow.series_id.in_(series)),
        (ShadowResultRow, ShadowResultRow.job_id.in_(jobs)),
        (JobRow, JobRow.series_id.in_(series)),
        (ConflictRow, ConflictRow.instance_id.in_(instances)),
        (EarlierVersionRow, _earlier(uid)),
        (InstanceRow, InstanceRow.series_id.in_(series)),
        (OtherStudyRow, or_(OtherStudyRow.series_id.in_(series), OtherStudyRow.study_instance_uid == uid)),
        (HandOverRow, HandOverRow.study_instance_uid == uid),
        (StudyCountRow, StudyCountRow.study_instance_uid == uid),
        (RefusedInstanceRow, RefusedInstanceRow.series_instance_uid.in_(known)),
        (SeriesRow, SeriesRow.study_instance_uid == uid),
        (StudyRow, StudyRow.study_instance_uid == uid),
    ]
    for table, condition in of_rows:
        session.execute(delete(table).where(condition), execution_options={"synchronize_session": False})
    session.execute(delete(FileFaultRow).where(is_any_of(session, FileFaultRow.path, paths)))
    # What people found the patient by, unless another study is found by it, too.
    used = set(session.scalars(select(SeriesRow.search_entry_id).where(SeriesRow.search_entry_id.in_(entries))))
    session.execute(delete(SearchWordRow).where(SearchWordRow.entry_id.in_(entries - used)))
    session.execute(delete(SearchEntryRow).where(SearchEntryRow.id.in_(entries - used)))


def _series(uid: str) -> Any:
    return select(SeriesRow.id).where(SeriesRow.study_instance_uid == uid)


def _instances(uid: str) -> Any:
    return select(InstanceRow.id).where(InstanceRow.series_id.in_(_series(uid)))


def _earlier(uid: str) -> Any:
    """Earlier versions that were images of the study, and those of what are its images now."""
    of_images = EarlierVersionRow.instance_id.in_(_instances(uid))
    return or_(EarlierVersionRow.series_id.in_(_series(uid)), of_images)


def _objects(uid: str) -> Any:
    results = select(ResultRow.id).where(ResultRow.series_id.in_(_series(uid)))
    of_study = select(StudyResultRow.id).join(StudyRow, StudyRow.id == StudyResultRow.study_id)
    answers = of_study.where(StudyRow.study_instance_uid == uid)
    return select(ObjectRow.id).where(or_(ObjectRow.result_id.in_(results), ObjectRow.study_result_id.in_(answers)))


def _files(session: Session, uid: str) -> list[str]:
    instances, earlier = InstanceRow.series_id.in_(_series(uid)), _earlier(uid)
    conflicts = ConflictRow.instance_id.in_(_instances(uid))
    own: dict[str, None] = {}
    for column, condition in (
        (InstanceRow.path, instances),
        (EarlierVersionRow.path, earlier),
        (ConflictRow.path, conflicts),
        (ObjectRow.path, ObjectRow.id.in_(_objects(uid))),
    ):
        own |= dict.fromkeys(session.scalars(select(column).where(condition)))
    shared: set[str] = set()
    for column, condition in ((InstanceRow.path, instances), (EarlierVersionRow.path, earlier)):
        shared |= set(session.scalars(select(column).where(is_any_of(session, column, own), ~condition)))
    return [path for path in own if path not in shared]
