"""A page of the worklist: studies with their answers, their series as marks, and how far they are delivered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, func, select
from sqlalchemy.orm import Session

from worker.db.engine import is_any_of
from worker.db.readings import is_latest_reading
from worker.db.tables import (
    DeliveryRow,
    DeliveryState,
    JobRow,
    ObjectRow,
    ReadingRow,
    ReadState,
    ResultRow,
    SeriesRow,
    SeriesStatus,
    StudyResultRow,
    StudyRow,
    StudyState,
)
from worker.db.views.search import (
    INSTANCES,
    LAST_DETAIL,
    LAST_REASON,
    ListPosition,
    Search,
    as_stored,
    cut_page,
    page_of_ids,
)
from worker.db.views.worklist.matching import conditions_of

# The statements of a page, built once: building one takes longer than running it.
_STUDIES = (
    select(
        StudyRow.id, StudyRow.study_instance_uid, StudyRow.received_at, StudyRow.state, StudyRow.status,
        StudyRow.label, StudyRow.probability, StudyRow.read_state, StudyRow.read_as, StudyRow.answered_by,
        func.coalesce(StudyResultRow.reason, StudyRow.reason).label("reason"),
        func.coalesce(StudyResultRow.detail, StudyRow.detail).label("detail"),
        StudyResultRow.contradiction, StudyResultRow.contributions,
    )
    .outerjoin(StudyResultRow, StudyResultRow.id == StudyRow.answered_by)
    .where(StudyRow.id.in_(bindparam("ids", expanding=True)))
)  # fmt: skip
_SERIES_OF = (
    select(
        SeriesRow.id, SeriesRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.patient_id,
        SeriesRow.patient_name, SeriesRow.accession_number, SeriesRow.study_date, SeriesRow.series_description,
        SeriesRow.modality, SeriesRow.sequence, SeriesRow.contrast_agent, SeriesRow.plane, SeriesRow.status,
        SeriesRow.label, SeriesRow.probability, ResultRow.id.label("result_id"), JobRow.missing,
        LAST_REASON, LAST_DETAIL, ReadingRow.label.label("read_as"), INSTANCES,
    )
    .outerjoin(JobRow, JobRow.id == SeriesRow.answered_job_id)
    .outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
    .outerjoin(ReadingRow, and_(ReadingRow.series_id == SeriesRow.id, is_latest_reading()))
    .where(SeriesRow.study_instance_uid.in_(bindparam("uids", expanding=True)))
    .order_by(SeriesRow.id)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ListedSeries:
    """A series of a listed study. `read_as` is the label of its latest reading, `number` its Series Number."""

    series_instance_uid: str
    number: int | None
    description: str
    modality: str
    sequence: str | None
    contrast_agent: str | None
    plane: str | None
    instances: int
    status: str
    label: str | None
    probability: float | None
    reason: str | None
    detail: str | None
    missing: str | None
    read_as: str | None


@dataclass(frozen=True, slots=True)
class Delivered:
    """Of the deliveries of a study and its series, without those that were withdrawn: all, arrived, failed."""

    total: int = 0
    arrived: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """A study: whose it is by its first series, the answer for it, and its series by their numbers, then as they came.

    `label` is None without a class, `reason` is why; `is_open`: its series, or the answer for it, are under way.
    """

    number: int
    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    received_at: datetime
    is_open: bool
    status: SeriesStatus
    label: str | None
    probability: float | None
    reason: str | None
    detail: str | None
    contradiction: str | None
    reading: ReadState
    read_as: str | None
    delivered: Delivered
    series: tuple[ListedSeries, ...]

    @property
    def position(self) -> ListPosition:
        """Where it stands in the list."""
        return ListPosition(self.received_at, self.number)


@dataclass(frozen=True, slots=True)
class StudyListPage:
    """Studies, newest first, and the positions of the next pages; None at an end of the list."""

    studies: tuple[ListedStudy, ...]
    newer_than: ListPosition | None
    older_than: ListPosition | None


def find_study_page(session: Session, search: Search, limit: int) -> StudyListPage:
    """A page of `limit` studies that match."""
    ids = session.execute(_page_of_ids(session, replace(search, limit=limit + 1)))
    found, newer_than, older_than = cut_page(ids.all(), search, limit)
    rows = {row.id: row for row in session.execute(_STUDIES, {"ids": [row.id for row in found]})}
    studies = _listed(session, [rows[row.id] for row in found if row.id in rows])
    return StudyListPage(tuple(studies), newer_than, older_than)


def study_position(session: Session, study_instance_uid: str) -> ListPosition | None:
    """Where a study stands in the list; None for a study of which no series is there."""
    row = session.execute(
        select(StudyRow.received_at, StudyRow.id)
        .where(StudyRow.study_instance_uid == study_instance_uid, StudyRow.received_at.is_not(None))
    ).first()  # fmt: skip
    return ListPosition(row.received_at, row.id) if row is not None else None


def next_study(session: Session, search: Search) -> str | None:
    """The first study of the page of a search: below `older_than`, or just above `newer_than`."""
    found = session.execute(_page_of_ids(session, replace(search, limit=1))).first()
    return session.scalar(select(StudyRow.study_instance_uid).where(StudyRow.id == found.id)) if found else None


def _page_of_ids(session: Session, search: Search) -> Any:
    stored = as_stored(session, search)
    return page_of_ids(stored, conditions_of(session, stored), StudyRow.received_at, StudyRow.id)


def _listed(session: Session, rows: Sequence[Any]) -> list[ListedStudy]:
    series: dict[str, list[Any]] = defaultdict(list)
    for row in session.execute(_SERIES_OF, {"uids": [row.study_instance_uid for row in rows]}):
        series[row.study_instance_uid].append(row)
    delivered = _delivered(session, rows, series)
    return [
        _study(row, series[row.study_instance_uid], delivered.get(row.id, Delivered()))
        for row in rows
        if series[row.study_instance_uid]
    ]


def _delivered(session: Session, studies: Sequence[Any], series: Mapping[str, Sequence[Any]]) -> dict[int, Delivered]:
    """Deliveries of the objects of studies and of their series, by the row id of the study."""
    study_of = {row.study_instance_uid: row.id for row in studies}
    of_series = {row.result_id: study_of[uid] for uid, rows in series.items() for row in rows if row.result_id}
    of_study = {row.answered_by: row.id for row in studies if row.answered_by is not None}
    # Of one table at a time: of a join, PostgreSQL's plan for any values reads every delivery.
    study_by_object: dict[int, int] = {}
    for column, study_by_result in ((ObjectRow.result_id, of_series), (ObjectRow.study_result_id, of_study)):
        for result_id, object_id in _of_ids(session, column, ObjectRow.id, study_by_result):
            study_by_object[object_id] = study_by_result[result_id]
    numbers: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for object_id, state in _of_ids(session, DeliveryRow.object_id, DeliveryRow.state, study_by_object):
        if state != DeliveryState.SUPERSEDED:
            counted = numbers[study_by_object[object_id]]
            counted[0] += 1
            counted[1] += state == DeliveryState.DELIVERED
            counted[2] += state == DeliveryState.FAILED
    return {study: Delivered(*counted) for study, counted in numbers.items()}


def _of_ids(session: Session, column: Any, other: Any, ids: Iterable[int]) -> Iterable[Any]:
    """Two columns of the rows that refer to these ids, by an index."""
    return session.execute(select(column, other).where(is_any_of(session, column, ids)))


def _study(row: Any, series: Sequence[Any], delivered: Delivered) -> ListedStudy:
    first = series[0]
    numbers = {item["answer"]["series"]: item["answer"]["number"] for item in row.contributions or ()}
    listed = [_listed_series(item, numbers.get(item.series_instance_uid)) for item in series]
    # Without an answer of its own, the reason of a study is that of its only series.
    why = series[0] if row.answered_by is None and row.reason is None and len(series) == 1 else row
    return ListedStudy(
        number=row.id,
        study_instance_uid=row.study_instance_uid,
        patient_id=first.patient_id,
        patient_name=first.patient_name,
        accession_number=first.accession_number,
        study_date=first.study_date,
        received_at=row.received_at,
        is_open=row.state == StudyState.OPEN,
        status=SeriesStatus(row.status),
        label=row.label,
        probability=row.probability,
        reason=why.reason,
        detail=why.detail,
        contradiction=row.contradiction,
        reading=ReadState(row.read_state),
        read_as=row.read_as,
        delivered=delivered,
        series=tuple(sorted(listed, key=lambda item: (item.number is None, item.number or 0))),
    )


def _listed_series(row: Any, number: int | None) -> ListedSeries:
    return ListedSeries(
        series_instance_uid=row.series_instance_uid,
        number=number,
        description=row.series_description,
        modality=row.modality,
        sequence=row.sequence if row.sequence != "unknown" else None,
        contrast_agent=row.contrast_agent if row.contrast_agent != "unknown" else None,
        plane=row.plane if row.plane != "unknown" else None,
        instances=row.instances,
        status=row.status,
        label=row.label,
        probability=row.probability,
        reason=row.reason,
        detail=row.detail,
        missing=row.missing,
        read_as=row.read_as,
    )
