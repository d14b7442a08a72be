"""Rows of readings: the readers' findings on series, and what training and the monthly report use of them.

Over 400 lines in one file, because every query here must know which reading of a series stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, TypeVar

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from worker.db.tables import (
    InstanceRow,
    ModelRow,
    ReadingRow,
    ReadState,
    ResultRow,
    SeriesRow,
    SliceResultRow,
    StudyReadingRow,
)
from worker.errors import WorkerError

NOT_ASSESSABLE = "not-assessable"
UNKNOWN_KIND = "tumor"  # monai_train's word for a tumour of unknown kind, and the models' too
SOMETHING_ELSE = "other"  # where no model has a class of that name
# A reader's labels besides the labels of the models, which may have the first two as well, with titles of their own.
OTHER_LABELS = {
    UNKNOWN_KIND: "Tumour, kind not known",
    SOMETHING_ELSE: "Something else (say what in the comment)",
    NOT_ASSESSABLE: "Not assessable",
}
LARGEST_COMMENT = 1000
RowT = TypeVar("RowT", ReadingRow, StudyReadingRow)


class ReadMeanwhile(WorkerError):
    """The readings are no longer those that the reader saw, or are another reader's; nothing was written."""


def read_state(reader_label: str | None, label: str | None) -> ReadState:
    """`reader_label` of the latest reading, None without a reading; `label` of the model, None without a class."""
    if reader_label is None:
        return ReadState.UNREAD
    same = reader_label == label or (label is None and reader_label == NOT_ASSESSABLE)
    return ReadState.CONFIRMED if same else ReadState.CORRECTED


class LabelMeaning(TypedDict):
    """What a label of a model means; `kind` is False where it determines no kind."""

    neoplasm: bool
    lesion: bool
    kind: bool


Labels = Mapping[str, LabelMeaning]


def is_finding(reader_label: str, labels: Labels | None) -> bool:
    """Whether a reader's label tells what a series shows, to a model with these labels (None: they are not known)."""
    return reader_label in (labels or {}) or reader_label not in (SOMETHING_ELSE, NOT_ASSESSABLE)


def is_right(reader_label: str, label: str | None, labels: Labels | None) -> bool | None:
    """Whether a model's label is right by a reader's; None where that cannot be told.

    "A tumour, kind not determined" is right where the reader sees a tumour of any kind. Where it is the reader who
    knows no kind, the kind that the model names is neither right nor wrong.
    """
    if label is None or not is_finding(reader_label, labels):
        return None
    if reader_label == label:
        return True
    known = labels or {}
    neoplasm = {name: meaning["neoplasm"] for name, meaning in known.items()} | {UNKNOWN_KIND: True}
    if reader_label == UNKNOWN_KIND:
        return None if neoplasm.get(label, True) else False
    if label == UNKNOWN_KIND or (label in known and not known[label]["kind"]):
        return neoplasm.get(reader_label)
    return False


@dataclass(frozen=True, slots=True)
class NewReading:
    """A reader's finding. `after` is the number of the latest reading that the reader saw, 0 for none.

    `slices` are ordinals in the result `result_id`, () where the reader marked no slice.
    """

    label: str
    reader: str
    comment: str
    slices: tuple[int, ...]
    result_id: int | None
    after: int


def add_reading(session: Session, series_id: int, new: NewReading, now: datetime) -> ReadingRow:
    """Add a series' next reading, under a lock on the series.

    Raises ReadMeanwhile if `after` is not the latest, withdrawn or not.
    """
    session.scalar(select(SeriesRow.id).where(SeriesRow.id == series_id).with_for_update())
    require_latest(latest_reading(session, series_id), new.after, "series")
    row = ReadingRow(
        series_id=series_id,
        number=new.after + 1,
        result_id=new.result_id,
        label=new.label,
        slices=list(new.slices),
        comment=new.comment,
        reader=new.reader,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def latest_reading(session: Session, series_id: int, *, standing: bool = False) -> ReadingRow | None:
    """The latest reading of a series; `standing`: of those that were not withdrawn."""
    conditions = [ReadingRow.series_id == series_id, *([ReadingRow.withdrawn_at.is_(None)] if standing else [])]
    return session.scalar(select(ReadingRow).where(*conditions).order_by(ReadingRow.number.desc()).limit(1))


def require_latest(latest: ReadingRow | StudyReadingRow | None, after: int, what: str) -> None:
    """Raises ReadMeanwhile if the number `after` is not that of the latest reading of the series or study, `what`."""
    if after != (latest.number if latest else 0):
        fault = f"{latest.reader} has read this {what}" if latest else "there is no such reading"
        raise ReadMeanwhile("read-meanwhile", f"{fault} since you looked at it; nothing was written")


def require_own(standing: RowT | None, number: int, reader: str, what: str) -> RowT:
    """The reading that a reader may withdraw: the latest that stands. Raises ReadMeanwhile for any other."""
    if standing is None or standing.number != number:
        fault = f"another finding on this {what} stands now; nothing was withdrawn"
        raise ReadMeanwhile("read-meanwhile", fault)
    if standing.reader != reader:
        raise ReadMeanwhile("another-reader", f"this is the finding of {standing.reader}; nothing was withdrawn")
    return standing


@dataclass(frozen=True, slots=True)
class Reading:
    """A reading and the answer that the reader saw; `answer` is None where that was "not assessed" or absent."""

    number: int
    label: str
    comment: str
    slices: tuple[int, ...]  # that the reader marked; none in a reading of a study
    reader: str
    created_at: datetime
    result_id: int | None
    answer: str | None
    model: str | None
    withdrawn_at: datetime | None = None

    @property
    def state(self) -> ReadState:
        """Whether the reader agreed with that answer."""
        return read_state(self.label, self.answer)


def readings_of(session: Session, series_id: int) -> list[Reading]:
    """Every reading of a series, latest first."""
    rows = session.execute(
        select(ReadingRow, ResultRow.label, ModelRow.name + " " + ModelRow.version)
        .outerjoin(ResultRow, ResultRow.id == ReadingRow.result_id)
        .outerjoin(ModelRow, ModelRow.id == ResultRow.model_id)
        .where(ReadingRow.series_id == series_id)
        .order_by(ReadingRow.number.desc())
    )
    return [reading_of(row, row.slices, row.result_id, *answered) for row, *answered in rows]


def reading_of(
    row: ReadingRow | StudyReadingRow, slices: Sequence[int], result: int | None, answer: str | None, model: str | None
) -> Reading:
    """The reading in a row, of the answer in the row `result`, by a model."""
    return Reading(
        number=row.number,
        label=row.label,
        comment=row.comment,
        slices=tuple(slices),
        reader=row.reader,
        created_at=row.created_at,
        result_id=result,
        answer=answer,
        model=model,
        withdrawn_at=row.withdrawn_at,
    )


@dataclass(frozen=True, slots=True)
class SeriesToRead:
    """A series that a reader may read: its answer's result id, the model's classes and the number of slices."""

    series_id: int
    study_instance_uid: str
    result_id: int | None
    label: str | None
    classes: tuple[str, ...]
    slices: int


def series_to_read(session: Session, series_instance_uid: str) -> SeriesToRead | None:
    """None for a series that was not received."""
    row = session.execute(
        select(SeriesRow.id, SeriesRow.study_instance_uid, SeriesRow.label, ResultRow.id, ResultRow.probabilities)
        .outerjoin(ResultRow, ResultRow.job_id == SeriesRow.answered_job_id)
        .where(SeriesRow.series_instance_uid == series_instance_uid)
    ).first()
    if row is None:
        return None
    series_id, study, label, result_id, probabilities = row
    number = select(func.count()).select_from(SliceResultRow).where(SliceResultRow.result_id == result_id)
    slices = session.scalar(number) if result_id is not None else 0
    return SeriesToRead(series_id, study, result_id, label, tuple(probabilities or ()), slices or 0)


def slices_of_result(session: Session, series_id: int, result_id: int) -> int | None:
    """The number of slices of a result; None where the result is not of this series."""
    if session.scalar(select(ResultRow.series_id).where(ResultRow.id == result_id)) != series_id:
        return None
    return session.scalar(select(func.count()).select_from(SliceResultRow).where(SliceResultRow.result_id == result_id))


def is_latest_reading(before: datetime | None = None) -> ColumnElement[bool]:
    """The condition that a reading is its series' latest not withdrawn; with `before`, of those made before then."""
    newer = aliased(ReadingRow)
    later = and_(
        newer.series_id == ReadingRow.series_id, newer.number > ReadingRow.number, newer.withdrawn_at.is_(None)
    )
    if before is not None:
        later = and_(later, newer.created_at < before)
    return and_(ReadingRow.withdrawn_at.is_(None), ~exists().where(later))


def has_read_state(state: ReadState) -> ColumnElement[bool]:
    """The condition that the latest reading of a SeriesRow is in this state."""
    if state is ReadState.UNREAD:
        return ~exists().where(ReadingRow.series_id == SeriesRow.id, ReadingRow.withdrawn_at.is_(None))
    same = or_(ReadingRow.label == SeriesRow.label, and_(SeriesRow.label.is_(None), ReadingRow.label == NOT_ASSESSABLE))
    # Readings are few compared with series, so they are looked up first.
    agrees = case((same, ReadState.CONFIRMED), else_=ReadState.CORRECTED) == state
    of_read = select(ReadingRow.series_id)
    return and_(
        SeriesRow.id.in_(of_read), exists().where(ReadingRow.series_id == SeriesRow.id, is_latest_reading(), agrees)
    )


# --- for training ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadSlice:
    """A slice of a series that was read: its file below the data folder, and the model's view of it."""

    ordinal: int
    path: str
    sha256: str
    removed: bool
    frame_number: int | None
    in_distribution: bool
    deciding: bool


@dataclass(frozen=True, slots=True)
class ReadSeries:
    """A series with its latest reading, and the slices of the result that the reader saw, in stack order.

    `labels` are those of the model of that result.
    """

    series_instance_uid: str
    label: str
    answer: str | None
    marked: tuple[int, ...]
    slices: tuple[ReadSlice, ...]
    labels: Labels | None = None


def read_series(session: Session) -> Iterator[ReadSeries]:
    """Every series with a reading, oldest first."""
    rows = session.execute(
        select(ReadingRow, SeriesRow.series_instance_uid, ResultRow.label, ModelRow.labels)
        .join(SeriesRow, SeriesRow.id == ReadingRow.series_id)
        .outerjoin(ResultRow, ResultRow.id == ReadingRow.result_id)
        .outerjoin(ModelRow, ModelRow.id == ResultRow.model_id)
        .where(is_latest_reading())
        .order_by(ReadingRow.series_id)
    ).all()
    for reading, uid, answer, labels in rows:
        slices = session.execute(
            select(SliceResultRow, InstanceRow.path, InstanceRow.sha256, InstanceRow.removed_at)
            .join(InstanceRow, InstanceRow.id == SliceResultRow.instance_id)
            .where(SliceResultRow.result_id == reading.result_id)
            .order_by(SliceResultRow.ordinal)
        )
        yield ReadSeries(
            series_instance_uid=uid,
            label=reading.label,
            answer=answer,
            marked=tuple(reading.slices),
            slices=tuple(
                ReadSlice(
                    ordinal=row.ordinal,
                    path=path,
                    sha256=sha256,
                    removed=removed_at is not None,
                    frame_number=row.frame_number,
                    in_distribution=row.in_distribution,
                    deciding=row.deciding,
                )
                for row, path, sha256, removed_at in slices
            ),
            labels=labels,
        )


# --- for the monthly report ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """A model's answer on a series and the reader's label. `patient` serves only to distinguish patients.

    `labels` are those that the model may answer.
    """

    model_id: int
    patient: str
    reader_label: str
    label: str | None
    probability: float | None
    labels: Labels | None = None

    @property
    def right(self) -> bool | None:
        """Whether the answer is right by the reader's; None where that cannot be told."""
        return is_right(self.reader_label, self.label, self.labels)


def judged_answers(session: Session, since: datetime, until: datetime) -> list[JudgedAnswer]:
    """The last answer of every model on the series whose latest reading lies between `since` and `until`."""
    later_result = aliased(ResultRow)
    last = ~exists().where(
        later_result.series_id == ResultRow.series_id,
        later_result.model_id == ResultRow.model_id,
        later_result.id > ResultRow.id,
        later_result.created_at < until,
    )
    rows = session.execute(
        select(ResultRow.model_id, SeriesRow.patient_id, SeriesRow.study_instance_uid, ReadingRow.label,
               ResultRow.label, ResultRow.probability, ModelRow.labels)
        .join(SeriesRow, SeriesRow.id == ReadingRow.series_id)
        .join(ResultRow, ResultRow.series_id == SeriesRow.id)
        .join(ModelRow, ModelRow.id == ResultRow.model_id)
        .where(ReadingRow.created_at >= since, ReadingRow.created_at < until, is_latest_reading(until))
        .where(ResultRow.created_at < until, last)
        .order_by(ReadingRow.id)
    )  # fmt: skip
    return [
        JudgedAnswer(model, patient or study, reader_label, label, probability, labels)
        for model, patient, study, reader_label, label, probability, labels in rows
    ]


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """A result and its slices: their number, how many are unlike the training data, their mean distance."""

    model_id: int
    label: str | None
    probability: float | None
    reason: str | None
    slices: int
    outside: int
    distance: float | None


def given_answers(session: Session, since: datetime, until: datetime) -> list[GivenAnswer]:
    """Every result between `since` and `until`."""
    outside = func.sum(case((SliceResultRow.in_distribution, 0), else_=1))
    by_result = (
        select(SliceResultRow.result_id, func.count().label("slices"), outside.label("outside"),
               func.avg(SliceResultRow.distance).label("distance"))
        .join(ResultRow, ResultRow.id == SliceResultRow.result_id)
        .where(ResultRow.created_at >= since, ResultRow.created_at < until)
        .group_by(SliceResultRow.result_id)
        .subquery()
    )  # fmt: skip
    rows = session.execute(
        select(ResultRow.model_id, ResultRow.label, ResultRow.probability, ResultRow.reason, by_result.c.slices,
               by_result.c.outside, by_result.c.distance)
        .outerjoin(by_result, by_result.c.result_id == ResultRow.id)
        .where(ResultRow.created_at >= since, ResultRow.created_at < until)
    )  # fmt: skip
    return [
        GivenAnswer(model, label, probability, reason, slices or 0, int(outside or 0), distance)
        for model, label, probability, reason, slices, outside, distance in rows
    ]


def received_series_count(session: Session, since: datetime, until: datetime) -> int:
    """The number of series whose first instance came between `since` and `until`."""
    number = select(func.count()).select_from(SeriesRow)
    return session.scalar(number.where(SeriesRow.created_at >= since, SeriesRow.created_at < until)) or 0


def models_by_id(session: Session, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """(name and version, bundle hash) of models by row id."""
    rows = session.scalars(select(ModelRow).where(ModelRow.id.in_(ids)))
    return {row.id: (f"{row.name} {row.version}", row.sha256) for row in rows}
