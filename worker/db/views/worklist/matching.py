"""The studies that match a search, as conditions in SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from worker.db.engine import is_any_of
from worker.db.tables import ReadState, SeriesRow, SeriesStatus, StudyRow
from worker.db.views.search import FEW, Search, received_within, unindexed
from worker.db.views.search_words import few_entries, first_entries, has_words
from worker.dicom.standard import is_uid

Column = Callable[[Any], Any]
_SERIES_OF_FEW = 4 * FEW  # rows that are read to find up to FEW studies


def conditions_of(session: Session, search: Search, at_most: int | None = None) -> list[ColumnElement[bool]]:
    """The conditions of a search of which identifiers are as stored (`search.as_stored`), apart from its page.

    A study matches where a series of it has what is searched for of a patient, a study or a series; status, class,
    probability and reading are the study's. As `search.conditions_of` for series, this helps a planner without
    statistics: what matches few studies is looked up first, what matches many is tried while the list is walked.
    With `at_most` the list is not walked: about so many matches suffice, in any order.
    """
    has_images = StudyRow.received_at.is_not(None)
    entries = few_entries(session, search.text, FEW) if search.text else []

    def of_series(column: Column, at_most: int | None = None) -> list[ColumnElement[bool]]:
        """What a series of the study must have."""
        return _of_series(session, search, entries, column, at_most)

    if not of_series(_indexed):
        return [has_images, *_of_study(search, _indexed)]
    if search.sequence is not None or _keys(search, _indexed) or (search.text and entries is not None):
        uids = _few_studies(session, of_series(_indexed), is_bounded=bool(search.text and entries))
        if uids is not None:
            are_few = is_any_of(session, StudyRow.study_instance_uid, uids)
            return [has_images, are_few, *_of_study(search, unindexed)]
    if at_most is not None and search.text:
        matching = select(SeriesRow.study_instance_uid).where(*of_series(_indexed, at_most))
        return [has_images, StudyRow.study_instance_uid.in_(matching), *_of_study(search, unindexed)]
    # The series of a study are found by its UID, whatever else of theirs has an index.
    exist = exists().where(SeriesRow.study_instance_uid == StudyRow.study_instance_uid,
                           *of_series(unindexed))  # fmt: skip
    return [has_images, exist, *_of_study(search, _indexed)]


def _few_studies(session: Session, of_series: list[ColumnElement[bool]], *, is_bounded: bool) -> set[str] | None:
    """The studies of which a series matches; None where they are more than FEW, or their series are many.

    `is_bounded`: only the series of a few entries match. Others are counted first, which takes a tenth of fetching.
    """
    by_index = select(SeriesRow.study_instance_uid).where(*of_series)
    if not is_bounded:
        number = select(func.count()).select_from(by_index.limit(_SERIES_OF_FEW).subquery())
        if (session.scalar(number) or 0) >= _SERIES_OF_FEW:
            return None
    uids = set(session.scalars(by_index.distinct().limit(FEW + 1)))
    return uids if len(uids) <= FEW else None


def _indexed(column: Any) -> Any:
    return column


def _keys(search: Search, column: Column) -> list[ColumnElement[bool]]:
    """What names a patient, a study or a series."""
    keys = {
        SeriesRow.series_instance_uid: search.series_instance_uid,
        SeriesRow.study_instance_uid: search.study_instance_uid,
        SeriesRow.accession_number: search.accession_number,
        SeriesRow.patient_id: search.patient_id,
    }
    return [column(key) == value for key, value in keys.items() if value is not None]


def _of_series(
    session: Session, search: Search, entries: Sequence[int] | None, column: Column, at_most: int | None
) -> list[ColumnElement[bool]]:
    """What a series of the study must have; `entries` are those of the text, None where they are many."""
    conditions = _keys(search, column)
    if search.text:
        if entries is not None:
            found = is_any_of(session, column(SeriesRow.search_entry_id), entries)
        else:
            found = has_words(search.text)
            if at_most is not None:
                found = and_(SeriesRow.search_entry_id.in_(first_entries(search.text, at_most)), found)
        uids = (SeriesRow.series_instance_uid, SeriesRow.study_instance_uid) if is_uid(search.text) else ()
        conditions.append(or_(found, *(column(uid) == search.text for uid in uids)))
    if search.sequence is not None:
        conditions.append((unindexed if conditions else column)(SeriesRow.sequence) == search.sequence)
    others = {SeriesRow.contrast_agent: search.contrast_agent, SeriesRow.plane: search.plane}
    return [*conditions, *(column(key) == value for key, value in others.items() if value is not None)]


def _of_study(search: Search, column: Column) -> list[ColumnElement[bool]]:
    """What the study itself must have; of several an index is used for the rarest."""
    rare = [
        (StudyRow.label, search.label),
        (StudyRow.read_state, None if search.reading in (None, ReadState.UNREAD) else str(search.reading)),
        (StudyRow.status, search.status.value if search.status is not None else None),
        (StudyRow.read_state, str(search.reading) if search.reading is ReadState.UNREAD else None),
    ]
    given = [(key, value) for key, value in rare if value is not None]
    conditions = [(column if place == 0 else unindexed)(key) == value for place, (key, value) in enumerate(given)]
    if search.answered:
        conditions.append(unindexed(StudyRow.status).in_([SeriesStatus.CLASSIFIED, SeriesStatus.NOT_ASSESSED]))
    if search.minimum_probability is not None:
        conditions.append(StudyRow.probability >= search.minimum_probability)
    return [*conditions, *received_within(search, column(StudyRow.received_at))]
