"""Search the series: classified, not assessed, refused, failed or pending."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session

from worker.db.engine import is_any_of
from worker.db.readings import has_read_state, is_latest_reading, read_state
from worker.db.studies.identity import listed_study
from worker.db.tables import (
    DeliveryRow,
    InstanceRow,
    JobRow,
    ModelRow,
    ObjectRow,
    ReadingRow,
    ReadState,
    ResultRow,
    SeriesRow,
    SeriesStatus,
    UtcDateTime,
)
from worker.db.views.search_words import few_entries, first_entries, has_words
from worker.dicom.standard import is_uid

Column = Callable[[Any], Any]
POSITION_PATTERN = r"^[0-9]{1,17}-[0-9]{1,18}$"  # never more than a time and a row id that the database can hold
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FEW = 2000  # up to this many matches are looked up first; with more, walking the list finds a page soon enough
_DOTS_OF_A_UID = 2  # 2.25.(a number) is the shortest; a patient's identifier hardly has as many


@dataclass(frozen=True, slots=True)
class ListPosition:
    """A series' position in the list, newest first: where a page begins or ends, independent of the rows before it."""

    received_at: datetime
    number: int

    def __str__(self) -> str:
        return f"{(self.received_at - _EPOCH) // timedelta(microseconds=1)}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> ListPosition:
        """Raises ValueError for a text that is not the `str` of a position."""
        if not re.fullmatch(POSITION_PATTERN, text):
            raise ValueError("not a position in the list")
        microseconds, _, number = text.partition("-")
        return cls(_EPOCH + timedelta(microseconds=int(microseconds)), int(number))


@dataclass(frozen=True, slots=True)
class Search:
    """The criteria of a search; None matches everything. Dates are those of receiving, both inclusive, of this host.

    `text` is a whole UID, or words of which each begins a word of the patient's name or is a part of the Patient ID or
    the accession number: in any order, without wildcards, case and accents.
    `answered` selects series with a model's result. `older_than` and `newer_than` are the ends of a page.
    """

    text: str | None = None
    patient_id: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    accession_number: str | None = None
    label: str | None = None
    status: SeriesStatus | None = None
    answered: bool = False
    since: date | None = None
    until: date | None = None
    minimum_probability: float | None = None
    reading: ReadState | None = None
    sequence: str | None = None
    contrast_agent: str | None = None
    plane: str | None = None
    limit: int | None = 1000
    older_than: ListPosition | None = None
    newer_than: ListPosition | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Answers, newest first, and the positions of the next pages; None at an end of the list."""

    answers: tuple[SeriesAnswer, ...]
    newer_than: ListPosition | None
    older_than: ListPosition | None


@dataclass(frozen=True, slots=True)
class DeliveryAnswer:
    """An object on its way to a destination.

    `status` is the peer's last C-STORE status; `commitment` is due, requested or confirmed where it is requested.
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
    """A series and its latest state.

    `label` is a class of the model or the model's label for a tumour whose kind is not determined; `probabilities` are
    of the classes. `reason` is a stable word (docs/operating.md, "Why a series is not assessed"), `detail` a sentence.
    """

    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    modality: str
    series_description: str
    instances: int
    status: SeriesStatus
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
    missing: str | None = None  # from the images that were classified
    reading: ReadState = ReadState.UNREAD  # whether readers agree with the answer
    read_as: str | None = None  # the label of the latest reading
    sequence: str | None = None  # what the series is by its headers, since it settled
    contrast_agent: str | None = None
    plane: str | None = None
    series_type: dict[str, Any] | None = None  # all fields of dicom.series_type.SeriesType, with the evidence


def find_series(session: Session, search: Search) -> list[SeriesAnswer]:
    """The series that match, newest first."""
    return _answers(session, session.execute(_query(session, search)).all())


def find_page(session: Session, search: Search, limit: int) -> Page:
    """A page of `limit` series."""
    found = session.execute(_query(session, replace(search, limit=limit + 1)))
    rows, newer_than, older_than = cut_page(found.all(), search, limit)
    return Page(tuple(_answers(session, rows)), newer_than, older_than)


def cut_page(
    rows: Sequence[Any], search: Search, limit: int
) -> tuple[Sequence[Any], ListPosition | None, ListPosition | None]:
    """Cut up to `limit` + 1 rows, as a search orders them, to a page, newest first; also where the next pages begin."""
    back, more = search.newer_than is not None, len(rows) > limit
    rows = rows[:limit][::-1] if back else rows[:limit]
    ends = [ListPosition(row.received_at, row.id) for row in (*rows[:1], *rows[-1:])]
    newer_than = ends[0] if ends and (more if back else search.older_than is not None) else None
    older_than = ends[-1] if ends and (back or more) else None
    return rows, newer_than, older_than


def _answers(session: Session, rows: Sequence[Any]) -> list[SeriesAnswer]:
    results = [row.result_id for row in rows if row.result_id is not None]
    deliveries = deliveries_by(session, ObjectRow.result_id, results)
    return [_answer(row, deliveries) for row in rows]


def find_series_by_suffix(session: Session, ending: str) -> Sequence[str]:
    """The Series Instance UID itself if it was received, otherwise up to two UIDs that end with `ending`."""
    uid = SeriesRow.series_instance_uid
    if session.scalar(select(uid).where(uid == ending)) is not None:
        return [ending]
    return session.scalars(select(uid).where(uid.endswith(ending, autoescape=True)).limit(2)).all()


def as_stored(session: Session, search: Search) -> Search:
    """Replace identifiers by pseudonyms, if the database stores them, and a study by that under which it is listed."""
    text, study = search.text, search.study_instance_uid
    names_uid = text is not None and is_uid(text) and text.count(".") >= _DOTS_OF_A_UID
    return replace(
        search,
        text=listed_study(session, text) if text is not None and names_uid else _stored(session, text),
        study_instance_uid=listed_study(session, study) if study is not None else None,
        patient_id=_stored(session, search.patient_id),
        accession_number=_stored(session, search.accession_number),
    )


def _stored(session: Session, identifier: str | None) -> str | None:
    pseudonym: Callable[[str], str] | None = session.info.get("pseudonym")
    return identifier if pseudonym is None or identifier is None else pseudonym(identifier)


LAST_REASON, LAST_DETAIL = (  # of the last stage that ended a series, where its result and its job are joined
    case((ResultRow.id.is_not(None), getattr(ResultRow, name)), (JobRow.id.is_not(None), getattr(JobRow, name)),
         else_=getattr(SeriesRow, name)).label(name)
    for name in ("reason", "detail")
)  # fmt: skip
INSTANCES = (  # of a series
    select(func.count()).select_from(InstanceRow).where(InstanceRow.series_id == SeriesRow.id)
    .correlate(SeriesRow).scalar_subquery().label("instances")
)  # fmt: skip
_COLUMNS = (  # instead of whole rows: that halves the time of a page
    SeriesRow.id, SeriesRow.series_instance_uid, SeriesRow.study_instance_uid, SeriesRow.patient_id,
    SeriesRow.patient_name, SeriesRow.accession_number, SeriesRow.study_date, SeriesRow.modality,
    SeriesRow.series_description, SeriesRow.status, SeriesRow.label, SeriesRow.probability,
    SeriesRow.created_at.label("received_at"), ResultRow.id.label("result_id"), ResultRow.probabilities,
    ResultRow.created_at.label("answered_at"), JobRow.id.label("job_id"), JobRow.missing,
    LAST_REASON, LAST_DETAIL,
    ModelRow.name.label("model_name"), ModelRow.version.label("model_version"), ModelRow.sha256.label("model_sha256"),
    ReadingRow.label.label("read_as"), SeriesRow.sequence, SeriesRow.contrast_agent, SeriesRow.plane,
    SeriesRow.series_type,
)  # fmt: skip


def _query(session: Session, search: Search) -> Select[Any]:
    search = as_stored(session, search)
    page = page_of_ids(search, conditions_of(session, search), SeriesRow.created_at, SeriesRow.id).subquery()
    # Of the page, not of the table: else SQLite walks the whole list in this order and looks each row up in the page.
    position = (page.c.created_at, page.c.id)
    return (
        select(*_COLUMNS, INSTANCES)
        .join(page, page.c.id == SeriesRow.id)
        .outerjoin(JobRow, JobRow.id == SeriesRow.answered_job_id)
        .outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
        .outerjoin(ModelRow, ModelRow.id == JobRow.model_id)
        .outerjoin(ReadingRow, and_(ReadingRow.series_id == SeriesRow.id, is_latest_reading()))
        .order_by(*(position if search.newer_than is not None else [column.desc() for column in position]))
    )


def page_of_ids(search: Search, conditions: Sequence[ColumnElement[bool]], received_at: Any, number: Any) -> Any:
    """The times and ids of a page, from indexes alone; the other columns are fetched for the page's rows only."""
    position, bounds = tuple_(received_at, number), []
    if (old := search.older_than) is not None:
        bounds.append(position < tuple_(literal(old.received_at, UtcDateTime()), literal(old.number)))
    if (new := search.newer_than) is not None:
        bounds.append(position > tuple_(literal(new.received_at, UtcDateTime()), literal(new.number)))
    order = (received_at, number) if new is not None else (received_at.desc(), number.desc())
    return select(received_at, number).where(*conditions, *bounds).order_by(*order).limit(search.limit)


def conditions_of(session: Session, search: Search, at_most: int | None = None) -> list[ColumnElement[bool]]:
    """The conditions of a search of which identifiers are as stored.

    A planner without statistics assumes that every equality is selective, so it gets help here: criteria that match
    few series are looked up first; for criteria that match many, no index keeps the list from being walked in order.
    With `at_most` the list is not walked: about so many matches suffice, in any order.
    """
    entries = few_entries(session, search.text, FEW) if search.text else []
    found = is_any_of(session, SeriesRow.search_entry_id, entries or [])
    if search.text and entries is None:
        found = has_words(search.text)
        if at_most is not None:
            found = and_(SeriesRow.search_entry_id.in_(first_entries(search.text, at_most)), found)
    narrow = _narrow(search, found) if entries is not None else []
    ids: set[int] = set()
    for condition in narrow:
        ids.update(session.scalars(select(SeriesRow.id).where(condition).limit(FEW + 1)))
        if len(ids) > FEW:
            break
    if narrow and len(ids) <= FEW:
        return [is_any_of(session, SeriesRow.id, ids), *_conditions(search, unindexed)]
    many = _narrow(search, found, unindexed if at_most is None else _indexed)
    return [*([or_(*many)] if many else []), *_conditions(search, unindexed if at_most and many else _indexed)]


def _indexed(column: Any) -> Any:
    return column


def unindexed(column: Any) -> Any:
    """The same value, for which no index is used."""
    return func.coalesce(column, column)


def _narrow(search: Search, found: ColumnElement[bool], column: Column = _indexed) -> list[ColumnElement[bool]]:
    """The conditions that name a patient, a study or a series; any of them suffices. `found` has the text's words."""
    keys = {
        SeriesRow.series_instance_uid: search.series_instance_uid,
        SeriesRow.study_instance_uid: search.study_instance_uid,
        SeriesRow.accession_number: search.accession_number,
        SeriesRow.patient_id: search.patient_id,
    }
    equal = [column(key) == value for key, value in keys.items() if value is not None]
    uids = (SeriesRow.series_instance_uid, SeriesRow.study_instance_uid)
    of_text = [found, *(column(uid) == search.text for uid in uids if is_uid(search.text or ""))] if search.text else []
    if equal:
        return [and_(*equal, or_(*of_text))] if of_text else [and_(*equal)]
    return of_text


def _conditions(search: Search, column: Column) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if search.label is not None:
        conditions.append(column(SeriesRow.label) == search.label)
    if search.status is not None:
        # A class is rarer than "classified", so where both are given the class's index is used.
        by_index = column if search.label is None else unindexed
        conditions.append(by_index(SeriesRow.status) == search.status.value)
    if search.answered:
        conditions.append(unindexed(SeriesRow.status).in_([SeriesStatus.CLASSIFIED, SeriesStatus.NOT_ASSESSED]))
    if search.minimum_probability is not None:
        conditions.append(SeriesRow.probability >= search.minimum_probability)
    if search.sequence is not None:
        # As for the status: with a class the class's index is used.
        by_index = column if search.label is None and search.status is None else unindexed
        conditions.append(by_index(SeriesRow.sequence) == search.sequence)
    if search.contrast_agent is not None:
        conditions.append(SeriesRow.contrast_agent == search.contrast_agent)
    if search.plane is not None:
        conditions.append(SeriesRow.plane == search.plane)
    if search.reading is not None:
        conditions.append(has_read_state(search.reading))
    return [*conditions, *received_within(search, column(SeriesRow.created_at))]


def received_within(search: Search, received_at: Any) -> list[ColumnElement[bool]]:
    """Conditions for the times in a column to lie within the days of a search."""
    conditions: list[ColumnElement[bool]] = []
    if search.since is not None:
        conditions.append(received_at >= midnight(search.since))
    if search.until is not None and search.until < date.max:
        conditions.append(received_at < midnight(search.until + timedelta(days=1)))
    return conditions


def midnight(day: date) -> datetime:
    """The beginning of a day in the time zone of this host, which is that of every time that is shown."""
    begins = datetime.combine(day, time())
    try:
        return begins.astimezone(UTC)
    except (OverflowError, ValueError):  # the first day that a datetime has, or the last
        return begins.replace(tzinfo=UTC)


def deliveries_by(session: Session, result_id: Any, result_ids: Sequence[int]) -> dict[int, list[DeliveryAnswer]]:
    """The deliveries of the objects of results; `result_id` is the column of ObjectRow that refers to these."""
    by_result: dict[int, list[DeliveryAnswer]] = {}
    for start in range(0, len(result_ids), 500):  # SQLite limits the number of bound values
        rows = session.execute(
            select(
                result_id, DeliveryRow.destination, ObjectRow.kind, ObjectRow.sop_instance_uid,
                DeliveryRow.state, DeliveryRow.attempts, DeliveryRow.status, DeliveryRow.reason, DeliveryRow.detail,
                DeliveryRow.delivered_at, DeliveryRow.commitment,
            )
            .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
            .where(result_id.in_(result_ids[start : start + 500]))
            .order_by(DeliveryRow.id)
        )  # fmt: skip
        for number, *values in rows:
            by_result.setdefault(number, []).append(DeliveryAnswer(*values))
    return by_result


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
        status=SeriesStatus(row.status),
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
        sequence=row.sequence,
        contrast_agent=row.contrast_agent,
        plane=row.plane,
        series_type=row.series_type,
    )
