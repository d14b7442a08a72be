"""Rows of readings of studies: a reader's finding on a study, which its classified series inherit.

A series that a reader read by itself keeps that reading, unless it is the only series of its study: such a study and
its series are read together, whichever of the two is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, and_, exists, select, update
from sqlalchemy.orm import Session, aliased

from worker.db.readings import (
    JudgedAnswer,
    Reading,
    ReadMeanwhile,
    SeriesToRead,
    is_latest_reading,
    latest_reading,
    reading_of,
    require_latest,
    require_own,
)
from worker.db.studies.summary import summarise_studies
from worker.db.tables import (
    ModelRow,
    ReadingRow,
    ResultRow,
    SeriesRow,
    SeriesStatus,
    StudyReadingRow,
    StudyResultRow,
    StudyRow,
)
from worker.errors import WorkerError


class SlicesNotInherited(WorkerError):
    """Slices were marked in a series that does not inherit the finding; nothing was written."""


@dataclass(frozen=True, slots=True)
class NewStudyReading:
    """A reader's finding. `after` is the number of the latest reading of the study that the reader saw, 0 for none.

    `result_id` is the row of the answer that the reader saw, None where there was none. `slices`: the ordinals that the
    reader marked in series of the study, by Series Instance UID.
    """

    label: str
    reader: str
    comment: str
    result_id: int | None
    after: int
    slices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StudyToRead:
    """A study that a reader may read: the row of its answer, the answer and the model's classes."""

    study_id: int
    study_instance_uid: str
    result_id: int | None
    label: str | None
    classes: tuple[str, ...]


def study_to_read(session: Session, study_instance_uid: str) -> StudyToRead | None:
    """None for a study of which nothing was received."""
    row = session.execute(
        select(StudyRow.id, StudyRow.label, StudyRow.answered_by, StudyResultRow.probabilities)
        .outerjoin(StudyResultRow, StudyResultRow.id == StudyRow.answered_by)
        .where(StudyRow.study_instance_uid == study_instance_uid)
    ).first()
    if row is None:
        return None
    return StudyToRead(row.id, study_instance_uid, row.answered_by, row.label, tuple(row.probabilities or ()))


def is_result_of(session: Session, study_id: int, result_id: int) -> bool:
    """Whether an answer is that of a study, now or before."""
    return session.scalar(select(StudyResultRow.study_id).where(StudyResultRow.id == result_id)) == study_id


def study_readings_of(session: Session, study_id: int) -> list[Reading]:
    """Every reading of a study, latest first."""
    rows = session.execute(
        select(StudyReadingRow, StudyResultRow.label, ModelRow.name + " " + ModelRow.version)
        .outerjoin(StudyResultRow, StudyResultRow.id == StudyReadingRow.study_result_id)
        .outerjoin(ModelRow, ModelRow.id == StudyResultRow.model_id)
        .where(StudyReadingRow.study_id == study_id)
        .order_by(StudyReadingRow.number.desc())
    )
    return [reading_of(row, (), row.study_result_id, *answered) for row, *answered in rows]


def inherits_reading(session: Session, series_instance_uid: str) -> bool:
    """Whether a series would inherit the next reading of its study."""
    row = session.scalar(select(SeriesRow).where(SeriesRow.series_instance_uid == series_instance_uid))
    if row is None:
        return False
    of_study = select(SeriesRow.id).where(SeriesRow.study_instance_uid == row.study_instance_uid).limit(2)
    return _inherits(session, row) or len(session.scalars(of_study).all()) == 1


def marked_slices(session: Session, study_instance_uid: str) -> dict[str, tuple[int, ...]]:
    """The slices that readers of a study marked in the present answers for its series, by Series Instance UID."""
    rows = session.execute(
        select(SeriesRow.series_instance_uid, ReadingRow.slices)
        .join(ReadingRow, ReadingRow.series_id == SeriesRow.id)
        .join(ResultRow, ResultRow.id == ReadingRow.result_id)
        .where(SeriesRow.study_instance_uid == study_instance_uid, is_latest_reading())
        .where(ReadingRow.study_reading_id.is_not(None), ResultRow.job_id == SeriesRow.answered_job_id)
    )
    return {uid: tuple(slices) for uid, slices in rows if slices}


def add_study_reading(session: Session, study: StudyToRead, new: NewStudyReading, now: datetime) -> StudyReadingRow:
    """Add a study's next reading and those of its series.

    Raises ReadMeanwhile if `after` is not the latest, SlicesNotInherited. Series are locked before their study, as
    where they are answered.
    """
    series = _lock_series(session, study.study_instance_uid)
    require_latest(_lock_latest(session, study.study_id), new.after, "study")
    heirs = [row for row in series if len(series) == 1 or _inherits(session, row)]
    if set(new.slices) - {row.series_instance_uid for row in heirs}:
        fault = "slices: a series that was not classified, or was read by itself, is marked on its own page"
        raise SlicesNotInherited("slices-not-inherited", fault)
    row = StudyReadingRow(
        study_id=study.study_id,
        number=new.after + 1,
        study_result_id=new.result_id,
        label=new.label,
        comment=new.comment,
        reader=new.reader,
        created_at=now,
    )
    session.add(row)
    session.flush()
    for heir in heirs:
        _inherit(session, heir, row, new.slices.get(heir.series_instance_uid, ()))
    session.flush()
    summarise_studies(session, [study.study_instance_uid])
    return row


def is_latest_study_reading(before: datetime | None = None) -> ColumnElement[bool]:
    """The condition that a reading is the latest of its study, like `is_latest_reading`."""
    newer = aliased(StudyReadingRow)
    later = and_(
        newer.study_id == StudyReadingRow.study_id,
        newer.number > StudyReadingRow.number,
        newer.withdrawn_at.is_(None),
    )
    if before is not None:
        later = and_(later, newer.created_at < before)
    return and_(StudyReadingRow.withdrawn_at.is_(None), ~exists().where(later))


def judged_study_answers(session: Session, since: datetime, until: datetime) -> list[JudgedAnswer]:
    """The last answer of every model for the studies whose latest reading lies between `since` and `until`."""
    later_answer = aliased(StudyResultRow)
    last = ~exists().where(
        later_answer.study_id == StudyResultRow.study_id,
        later_answer.model_id == StudyResultRow.model_id,
        later_answer.number > StudyResultRow.number,
        later_answer.created_at < until,
    )
    patient = (
        select(SeriesRow.patient_id)
        .where(SeriesRow.study_instance_uid == StudyRow.study_instance_uid)
        .order_by(SeriesRow.id)
        .limit(1)
        .correlate(StudyRow)
        .scalar_subquery()
    )
    rows = session.execute(
        select(StudyResultRow.model_id, patient, StudyRow.study_instance_uid, StudyReadingRow.label,
               StudyResultRow.label, StudyResultRow.probability, ModelRow.labels)
        .join(StudyRow, StudyRow.id == StudyReadingRow.study_id)
        .join(StudyResultRow, StudyResultRow.study_id == StudyRow.id)
        .join(ModelRow, ModelRow.id == StudyResultRow.model_id)
        .where(StudyReadingRow.created_at >= since, StudyReadingRow.created_at < until, is_latest_study_reading(until))
        .where(StudyResultRow.created_at < until, last)
        .order_by(StudyReadingRow.id)
    )  # fmt: skip
    return [
        JudgedAnswer(model, patient_id or study, reader_label, label, probability, labels)
        for model, patient_id, study, reader_label, label, probability, labels in rows
    ]


def withdraw_study_reading(session: Session, study: StudyToRead, number: int, reader: str, now: datetime) -> None:
    """Withdraw a study's latest reading and those that its series inherited; those before them stand again.

    Raises ReadMeanwhile if it is not the latest that stands, or another reader's.
    """
    _lock_series(session, study.study_instance_uid)
    standing = _lock_latest(session, study.study_id, standing=True)
    row = require_own(standing, number, reader, "study")
    row.withdrawn_at = now
    session.execute(update(ReadingRow).where(ReadingRow.study_reading_id == row.id).values(withdrawn_at=now))
    session.flush()
    summarise_studies(session, [study.study_instance_uid])


def withdraw_reading(session: Session, series: SeriesToRead, number: int, reader: str, now: datetime) -> None:
    """Withdraw a series' latest reading, and with a study's only series that of the study.

    Raises ReadMeanwhile as `withdraw_study_reading`, and for a reading that was inherited from a study of several.
    """
    of_study = _lock_series(session, series.study_instance_uid)
    row = require_own(latest_reading(session, series.series_id, standing=True), number, reader, "series")
    if row.study_reading_id is not None:
        study = study_to_read(session, series.study_instance_uid)
        inherited = session.get(StudyReadingRow, row.study_reading_id)
        if len(of_study) > 1 or study is None or inherited is None:
            fault = "this finding is that of the study; withdraw it there"
            raise ReadMeanwhile("of-study", fault)
        withdraw_study_reading(session, study, inherited.number, reader, now)
        return
    row.withdrawn_at = now
    session.flush()


def _lock_series(session: Session, study_instance_uid: str) -> Sequence[SeriesRow]:
    return session.scalars(
        select(SeriesRow)
        .where(SeriesRow.study_instance_uid == study_instance_uid)
        .order_by(SeriesRow.id)
        .with_for_update()
    ).all()


def _lock_latest(session: Session, study_id: int, *, standing: bool = False) -> StudyReadingRow | None:
    session.scalar(select(StudyRow.id).where(StudyRow.id == study_id).with_for_update())
    conditions = [StudyReadingRow.study_id == study_id]
    if standing:
        conditions.append(StudyReadingRow.withdrawn_at.is_(None))
    return session.scalar(select(StudyReadingRow).where(*conditions).order_by(StudyReadingRow.number.desc()).limit(1))


def _inherits(session: Session, series: SeriesRow) -> bool:
    standing = latest_reading(session, series.id, standing=True)
    was_read_itself = standing is not None and standing.study_reading_id is None
    return series.status == SeriesStatus.CLASSIFIED and not was_read_itself


def _inherit(session: Session, series: SeriesRow, reading: StudyReadingRow, slices: tuple[int, ...]) -> None:
    latest = latest_reading(session, series.id)
    session.add(
        ReadingRow(
            series_id=series.id,
            number=latest.number + 1 if latest else 1,
            result_id=session.scalar(select(ResultRow.id).where(ResultRow.job_id == series.answered_job_id)),
            label=reading.label,
            slices=list(slices),
            comment=reading.comment,
            reader=reading.reader,
            created_at=reading.created_at,
            study_reading_id=reading.id,
        )
    )


def join_study(session: Session, reading: ReadingRow) -> None:
    """Read a study with its only series; does nothing for a series of several."""
    uid = session.scalar(select(SeriesRow.study_instance_uid).where(SeriesRow.id == reading.series_id))
    of_study: Sequence[int] = session.scalars(select(SeriesRow.id).where(SeriesRow.study_instance_uid == uid)).all()
    study = session.scalar(select(StudyRow).where(StudyRow.study_instance_uid == uid))
    if study is None or uid is None or len(of_study) > 1:
        return
    latest = _lock_latest(session, study.id)
    row = StudyReadingRow(
        study_id=study.id,
        number=latest.number + 1 if latest else 1,
        study_result_id=study.answered_by,
        label=reading.label,
        comment=reading.comment,
        reader=reading.reader,
        created_at=reading.created_at,
    )
    session.add(row)
    session.flush()
    reading.study_reading_id = row.id
    session.flush()
    summarise_studies(session, [uid])
