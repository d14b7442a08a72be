"""One search over what became of every series: classified, not assessed, refused, failed or pending."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select, true, tuple_
from sqlalchemy.orm import Session

from worker.db.readings import ReadState, has_read_state, is_latest_reading, read_state
from worker.db.tables import (
    DeliveryRow,
    InstanceRow,
    JobRow,
    ModelRow,
    ObjectRow,
    ReadingRow,
    ResultRow,
    SeriesRow,
    SeriesStatus,
    UtcDateTime,
)
from worker.dicom.standard import is_uid

Status = SeriesStatus
POSITION_PATTERN = r"^[0-9]{1,17}-[0-9]{1,18}$"  # every one of them is a time and a number that the database can hold
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_FEW = 2000  # so many series that a text names are looked up first; more are so many that walking the list finds a page


@dataclass(frozen=True, slots=True)
class ListPosition:
    """A series' place in the list, newest first: where a page begins or ends, however many rows are before it."""

    received_at: datetime
    number: int

    def __str__(self) -> str:
        return f"{(self.received_at - _EPOCH) // timedelta(microseconds=1)}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> ListPosition:
        """Raises ValueError for anything but what `str` of a place gives."""
        if not re.fullmatch(POSITION_PATTERN, text):
            raise ValueError("not a place in the list")
        microseconds, _, number = text.partition("-")
        return cls(_EPOCH + timedelta(microseconds=int(microseconds)), int(number))


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; None asks for anything. Dates are those of receiving, both included, in UTC.

    `text` is the beginning of a patient's ID or name or of an accession number, or a whole UID; nothing in it is a
    wildcard. `answered` asks for what a model gave a result for. `older_than` and `newer_than` are the ends of a page.
    """

    text: str | None = None
    patient_id: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    accession_number: str | None = None
    label: str | None = None
    status: Status | None = None
    answered: bool = False
    since: date | None = None
    until: date | None = None
    minimum_probability: float | None = None
    reading: ReadState | None = None
    limit: int | None = 1000
    older_than: ListPosition | None = None
    newer_than: ListPosition | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Answers, newest first, and where to go on; None at an end of the list."""

    answers: tuple[SeriesAnswer, ...]
    newer_than: ListPosition | None
    older_than: ListPosition | None


@dataclass(frozen=True, slots=True)
class DeliveryAnswer:
    """One object on its way to one destination.

    `status` is the peer's last C-STORE status; `commitment` due, requested or confirmed where it is asked for.
    """

    destination: str
    object: str
    sop_instance_uid: str
    state: str
    attempts: int
    status: int | None
    reason: str | None
    detail: str | None
    delivered_at: datetime | None
    commitment: str | None


@dataclass(frozen=True, slots=True)
class SeriesAnswer:
    """One series and the latest that is known of it."""

    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    modality: str
    series_description: str
    instances: int
    status: Status
    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    reason: str | None
    detail: str | None
    model: str | None
    model_sha256: str | None
    created_at: datetime
    received_at: datetime
    deliveries: tuple[DeliveryAnswer, ...]
    missing: str | None = None  # of the images that the answer is about
    reading: ReadState = ReadState.UNREAD  # what readers made of the answer
    read_as: str | None = None  # the label that the latest of them gave


def find_series(session: Session, search: Search) -> list[SeriesAnswer]:
    """Newest first."""
    return _answers(session, session.execute(_query(session, search)).all())


def find_page(session: Session, search: Search, limit: int) -> Page:
    """`limit` series and the places around them."""
    rows = list(session.execute(_query(session, replace(search, limit=limit + 1))).all())
    more, rows = len(rows) > limit, rows[:limit]
    if search.newer_than is not None:
        rows.reverse()
    back = search.newer_than is not None
    ends = [ListPosition(row.received_at, row.id) for row in rows[:1] + rows[-1:]]
    return Page(
        answers=tuple(_answers(session, rows)),
        newer_than=ends[0] if ends and (more if back else search.older_than is not None) else None,
        older_than=ends[-1] if ends and (back or more) else None,
    )


def _answers(session: Session, rows: Sequence[Any]) -> list[SeriesAnswer]:
    deliveries = _deliveries(session, [row.result_id for row in rows if row.result_id is not None])
    return [_answer(row, deliveries) for row in rows]


def find_series_by_suffix(session: Session, ending: str) -> Sequence[str]:
    """The Series Instance UID itself where it was received, else up to two that end so."""
    uid = SeriesRow.series_instance_uid
    if session.scalar(select(uid).where(uid == ending)) is not None:
        return [ending]
    return session.scalars(select(uid).where(uid.endswith(ending, autoescape=True)).limit(2)).all()


_DOTS_OF_A_UID = 2  # 2.25.(a number) is the shortest; an identifier of a patient hardly has so many


def _as_stored(session: Session, search: Search) -> Search:
    """With pseudonyms for the identifiers, where the database holds them so."""
    names_uid = search.text is not None and is_uid(search.text) and search.text.count(".") >= _DOTS_OF_A_UID
    return replace(
        search,
        text=search.text if names_uid else _stored(session, search.text),
        patient_id=_stored(session, search.patient_id),
        accession_number=_stored(session, search.accession_number),
    )


def _stored(session: Session, identifier: str | None) -> str | None:
    pseudonym: Callable[[str], str] | None = session.info.get("pseudonym")
    return identifier if pseudonym is None or identifier is None else pseudonym(identifier)


# Columns and not whole rows: a page is made in half the time.
_COLUMNS = (
    SeriesRow.id, SeriesRow.series_instance_uid, SeriesRow.study_instance_uid, SeriesRow.patient_id,
    SeriesRow.patient_name, SeriesRow.accession_number, SeriesRow.study_date, SeriesRow.modality,
    SeriesRow.series_description, SeriesRow.status, SeriesRow.label, SeriesRow.probability,
    SeriesRow.created_at.label("received_at"), ResultRow.id.label("result_id"), ResultRow.probabilities,
    ResultRow.created_at.label("answered_at"), JobRow.id.label("job_id"), JobRow.missing,
    # Whoever ended the matter holds the reason.
    case((ResultRow.id.is_not(None), ResultRow.reason), (JobRow.id.is_not(None), JobRow.reason),
         else_=SeriesRow.reason).label("reason"),
    case((ResultRow.id.is_not(None), ResultRow.detail), (JobRow.id.is_not(None), JobRow.detail),
         else_=SeriesRow.detail).label("detail"),
    ModelRow.name.label("model_name"), ModelRow.version.label("model_version"), ModelRow.sha256.label("model_sha256"),
    ReadingRow.label.label("read_as"),
)  # fmt: skip


def _query(session: Session, search: Search) -> Select[Any]:
    search = _as_stored(session, search)
    instances = (
        select(func.count())
        .select_from(InstanceRow)
        .where(InstanceRow.series_id == SeriesRow.id)
        .correlate(SeriesRow)
        .scalar_subquery()
    )
    found = _page_of_ids(session, search).subquery()
    # Of the page, not of the table: else SQLite walks the whole list in this order and looks each row up in the page.
    place = (found.c.created_at, found.c.id)
    return (
        select(*_COLUMNS, instances.label("instances"))
        .join(found, found.c.id == SeriesRow.id)
        .outerjoin(JobRow, JobRow.id == SeriesRow.answered_job_id)
        .outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
        .outerjoin(ModelRow, ModelRow.id == JobRow.model_id)
        .outerjoin(ReadingRow, and_(ReadingRow.series_id == SeriesRow.id, is_latest_reading()))
        .order_by(*(place if search.newer_than is not None else [column.desc() for column in place]))
    )


def _page_of_ids(session: Session, search: Search) -> Select[datetime, int]:
    """The times and ids of a page, from indexes alone: what else a page shows is fetched for its rows only.

    A planner without statistics takes any equality for a rare one, so it is told: what names few series is looked up
    first, and what names many must not keep the list from being walked in its order.
    """
    narrow = _narrow(search)
    ids: set[int] | None = None
    if narrow:
        ids = set()
        for one in narrow:
            ids.update(session.scalars(select(SeriesRow.id).where(one).limit(_FEW + 1)))
            if len(ids) > _FEW:
                ids = None
                break
    chosen: ColumnElement[bool] = true()
    if ids is not None:
        chosen = SeriesRow.id.in_(ids)
    elif narrow:
        chosen = or_(*_narrow(search, _unindexed))
    conditions = _conditions(search, _as_it_is if ids is None else _unindexed)
    place = (SeriesRow.created_at, SeriesRow.id)
    order = place if search.newer_than is not None else tuple(column.desc() for column in place)
    return select(*place).where(chosen, *conditions, *_beyond(search)).order_by(*order).limit(search.limit)


Column = Callable[[Any], Any]


def _as_it_is(column: Any) -> Any:
    return column


def _unindexed(column: Any) -> Any:
    """The same value, which no index serves."""
    return func.coalesce(column, column)


def _narrow(search: Search, column: Column = _as_it_is) -> list[ColumnElement[bool]]:
    """What names a patient, a study or a series: one of these must hold."""
    wanted = {
        SeriesRow.series_instance_uid: search.series_instance_uid,
        SeriesRow.study_instance_uid: search.study_instance_uid,
        SeriesRow.accession_number: search.accession_number,
        SeriesRow.patient_id: search.patient_id,
    }
    named = [column(one) == value for one, value in wanted.items() if value is not None]
    if named:
        return [and_(*named, or_(*_text(search.text, column)))] if search.text else [and_(*named)]
    return _text(search.text, column) if search.text else []


def _text(text: str, column: Column) -> list[ColumnElement[bool]]:
    columns = [column(one) for one in (SeriesRow.patient_id, SeriesRow.patient_name, SeriesRow.accession_number)]
    begins: list[ColumnElement[bool]] = [
        and_(one >= spelling, one < spelling + "\U0010ffff")
        for one in columns
        for spelling in sorted({text, text.upper(), text.title()})
    ]
    whole = [column(one) == text for one in (SeriesRow.series_instance_uid, SeriesRow.study_instance_uid)]
    return [*begins, *whole]


def _conditions(search: Search, column: Column) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if search.label is not None:
        conditions.append(column(SeriesRow.label) == search.label)
    if search.status is not None:
        # A class is rarer than "classified", and whoever asks for both means the class.
        by_index = column if search.label is None else _unindexed
        conditions.append(by_index(SeriesRow.status) == search.status.value)
    if search.answered:
        conditions.append(_unindexed(SeriesRow.status).in_([Status.CLASSIFIED, Status.NOT_ASSESSED]))
    if search.minimum_probability is not None:
        conditions.append(SeriesRow.probability >= search.minimum_probability)
    if search.reading is not None:
        conditions.append(has_read_state(search.reading))
    if search.since is not None:
        conditions.append(column(SeriesRow.created_at) >= _midnight(search.since))
    if search.until is not None and search.until < date.max:
        conditions.append(column(SeriesRow.created_at) < _midnight(search.until + timedelta(days=1)))
    return conditions


def _beyond(search: Search) -> list[ColumnElement[bool]]:
    place = tuple_(SeriesRow.created_at, SeriesRow.id)
    conditions = []
    if (old := search.older_than) is not None:
        conditions.append(place < tuple_(literal(old.received_at, UtcDateTime()), literal(old.number)))
    if (new := search.newer_than) is not None:
        conditions.append(place > tuple_(literal(new.received_at, UtcDateTime()), literal(new.number)))
    return conditions


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def _deliveries(session: Session, result_ids: Sequence[int]) -> dict[int, list[DeliveryAnswer]]:
    found: dict[int, list[DeliveryAnswer]] = {}
    for start in range(0, len(result_ids), 500):  # SQLite limits the number of bound values
        rows = session.execute(
            select(
                ObjectRow.result_id, DeliveryRow.destination, ObjectRow.kind, ObjectRow.sop_instance_uid,
                DeliveryRow.state, DeliveryRow.attempts, DeliveryRow.status, DeliveryRow.reason, DeliveryRow.detail,
                DeliveryRow.delivered_at, DeliveryRow.commitment,
            )
            .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
            .where(ObjectRow.result_id.in_(result_ids[start : start + 500]))
            .order_by(DeliveryRow.id)
        )  # fmt: skip
        for result_id, *values in rows:
            found.setdefault(result_id, []).append(DeliveryAnswer(*values))
    return found


def _answer(row: Any, deliveries: dict[int, list[DeliveryAnswer]]) -> SeriesAnswer:
    return SeriesAnswer(
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        patient_id=row.patient_id,
        patient_name=row.patient_name,
        accession_number=row.accession_number,
        study_date=row.study_date,
        modality=row.modality,
        series_description=row.series_description,
        instances=row.instances,
        status=Status(row.status),
        label=row.label,
        probability=row.probability,
        probabilities=row.probabilities or {},
        reason=row.reason,
        detail=row.detail,
        model=f"{row.model_name} {row.model_version}" if row.model_name is not None else None,
        model_sha256=row.model_sha256,
        created_at=row.answered_at or row.received_at,
        received_at=row.received_at,
        deliveries=tuple(deliveries.get(row.result_id, ())),
        missing=row.missing,
        reading=read_state(row.read_as, row.label),
        read_as=row.read_as,
    )
