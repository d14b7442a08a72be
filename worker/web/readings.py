"""A reader's finding for a series, which the form and the API record alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import HTTPException
from fastapi import Path as PathParameter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker.audit import events
from worker.db import readings
from worker.db.engine import Session
from worker.db.readings import (
    LARGEST_COMMENT,
    OTHER_LABELS,
    NewReading,
    Reading,
    ReadMeanwhile,
    SeriesToRead,
    readings_of,
    series_to_read,
    slices_of_result,
)
from worker.db.studies.readings import (
    NewStudyReading,
    SlicesNotInherited,
    StudyToRead,
    add_study_reading,
    is_result_of,
    join_study,
    study_readings_of,
    study_to_read,
    withdraw_reading,
    withdraw_study_reading,
)
from worker.db.tables import ReadState
from worker.web.dependencies import NO_SUCH_SERIES, NO_SUCH_STUDY, Site
from worker.web.filters import LARGEST_NUMBER, Text, Uid
from worker.web.guard import Caller

_LARGEST_SERIES = 4000
_COMMENT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"  # line breaks, but no other control characters
Comment = Annotated[str, Field(max_length=LARGEST_COMMENT, pattern=_COMMENT_PATTERN), AfterValidator(str.strip)]
ReadingNumber = Annotated[int, PathParameter(ge=1, le=LARGEST_NUMBER)]
SliceOrdinal = Annotated[int, Field(ge=0, lt=_LARGEST_SERIES)]


class _Entry(BaseModel):
    """A reader's finding. Take `after` and `result` from the list of readings that you looked at."""

    model_config = ConfigDict(extra="forbid")

    label: Text = Field(description="One of the `labels` of the list.")
    after: int = Field(ge=0, le=LARGEST_NUMBER, description="The latest reading that you saw; 0 for none.")
    result: int | None = Field(
        None, ge=1, le=LARGEST_NUMBER, description="The result that you looked at; none where there was none."
    )
    comment: Comment = ""


class StudyReadingEntry(_Entry):
    """A reader's finding on a study. Take `after` and `result` from the list of readings that you looked at."""

    slices: dict[Uid, list[SliceOrdinal]] = Field(
        {},
        max_length=100,
        description="By Series Instance UID, the ordinals, from 0, of slices that show the finding.",
        json_schema_extra={"additionalProperties": False},  # no other keys than UIDs
    )


class ReadingEntry(_Entry):
    """A reader's finding as it is entered. Take `after` and `result` from the list of readings that you looked at."""

    slices: list[SliceOrdinal] = Field(
        [], max_length=_LARGEST_SERIES, description="Ordinals, from 0, of the slices that show the finding."
    )


@dataclass(frozen=True, slots=True)
class StudyReadingAnswer:
    """A reading of a study. `state`: confirmed or corrected, of the `answer` that the reader looked at."""

    number: int
    label: str
    state: ReadState
    comment: str
    reader: str
    read_at: datetime
    result: int | None
    answer: str | None
    model: str | None
    withdrawn_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReadingAnswer(StudyReadingAnswer):
    """A reading. `state`: confirmed or corrected, of the `answer` of the `model` that the reader looked at."""

    slices: tuple[int, ...]


def require_series(session: Session, series_instance_uid: str) -> SeriesToRead:
    """The series. Raises HTTPException 404 where none was received."""
    series = series_to_read(session, series_instance_uid)
    if series is None:
        raise HTTPException(404, NO_SUCH_SERIES)
    return series


def require_study(session: Session, study_instance_uid: str) -> StudyToRead:
    """The study. Raises HTTPException 404 where no series of it was received."""
    study = study_to_read(session, study_instance_uid)
    if study is None:
        raise HTTPException(404, NO_SUCH_STUDY)
    return study


def record_reading(site: Site, series_instance_uid: str, entry: ReadingEntry, caller: Caller) -> ReadingAnswer:
    """Store a reading and audit it. Raises HTTPException 404 and 422, and ReadMeanwhile."""
    with site.database.write() as session:
        series = require_series(session, series_instance_uid)
        _check(series, entry, site.class_titles(), "series")
        _check_slices(session, series, entry)
        slices = tuple(sorted({*entry.slices}))
        new = NewReading(entry.label, caller.name, entry.comment, slices, entry.result, entry.after)
        row = readings.add_reading(session, series.series_id, new, site.clock())
        join_study(session, row)
        [added] = [reading for reading in readings_of(session, series.series_id) if reading.number == row.number]
    site.record(events.annotated(caller.name, caller.address, series.study_instance_uid))
    return reading_answer(added)


def record_study_reading(site: Site, study_instance_uid: str, entry: StudyReadingEntry, caller: Caller) -> Reading:
    """Store a reading of a study and audit it. Raises HTTPException 404 and 422, and ReadMeanwhile."""
    with site.database.write() as session:
        study = require_study(session, study_instance_uid)
        _check(study, entry, site.class_titles(), "study")
        if entry.result is not None and not is_result_of(session, study.study_id, entry.result):
            raise HTTPException(422, "result: the study has no such answer")
        marked = {uid: tuple(sorted({*ordinals})) for uid, ordinals in entry.slices.items() if ordinals}
        if marked and entry.result != study.result_id:
            raise ReadMeanwhile("answered-meanwhile", "the study was answered since you marked slices of it")
        for uid, ordinals in marked.items():
            _check_marked(session, uid, ordinals)
        new = NewStudyReading(entry.label, caller.name, entry.comment, entry.result, entry.after, marked)
        try:
            row = add_study_reading(session, study, new, site.clock())
        except SlicesNotInherited as fault:
            raise HTTPException(422, fault.detail) from None
        [added] = [reading for reading in study_readings_of(session, study.study_id) if reading.number == row.number]
    site.record(events.annotated(caller.name, caller.address, study_instance_uid))
    return added


def withdraw_series_reading(site: Site, series_instance_uid: str, number: int, caller: Caller) -> None:
    """Withdraw the caller's latest reading of a series and audit it. Raises HTTPException 404 and ReadMeanwhile."""
    with site.database.write() as session:
        series = require_series(session, series_instance_uid)
        withdraw_reading(session, series, number, caller.name, site.clock())
    site.record(events.withdrawn(caller.name, caller.address, series.study_instance_uid))


def withdraw_reading_of_study(site: Site, study_instance_uid: str, number: int, caller: Caller) -> None:
    """Withdraw the caller's latest reading of a study and audit it. Raises HTTPException 404 and ReadMeanwhile."""
    with site.database.write() as session:
        study = require_study(session, study_instance_uid)
        withdraw_study_reading(session, study, number, caller.name, site.clock())
    site.record(events.withdrawn(caller.name, caller.address, study_instance_uid))


def _check(read: SeriesToRead | StudyToRead, entry: _Entry, titles: Mapping[str, str], what: str) -> None:
    """Raises ReadMeanwhile for an answer that the reader did not see, HTTPException 422 for an impossible finding."""
    if entry.result is None and read.result_id is not None:
        raise ReadMeanwhile(
            "answered-meanwhile", f"the {what} was answered since you looked at it; nothing was written"
        )
    labels = possible_labels(read, titles)
    if entry.label not in labels:
        raise HTTPException(422, f"label: must be one of {', '.join(labels)}")


def _check_slices(session: Session, series: SeriesToRead, entry: ReadingEntry) -> None:
    """Raises HTTPException 422 for a result or slices that this series does not have."""
    number = slices_of_result(session, series.series_id, entry.result) if entry.result is not None else 0
    if number is None:
        raise HTTPException(422, "result: the series has no such result")
    if entry.slices and max(entry.slices) >= number:
        raise HTTPException(422, f"slices: the result has {number}")


def _check_marked(session: Session, series_instance_uid: str, ordinals: Sequence[int]) -> None:
    """Raises HTTPException 422 for slices that the answer for a series does not have."""
    series = series_to_read(session, series_instance_uid)
    number = series.slices if series is not None else 0
    if max(ordinals) >= number:
        raise HTTPException(422, f"slices: the result has {number}")


def possible_labels(series: SeriesToRead | StudyToRead, titles: Mapping[str, str]) -> dict[str, str]:
    """Labels and titles to choose from: those of this host's models and of the answer, and the fixed other labels.

    The fixed labels come last; a model that has such a label gives it its title.
    """
    names = dict.fromkeys([*titles, *series.classes])
    ordered = [*(name for name in names if name not in OTHER_LABELS), *OTHER_LABELS]
    return {name: titles.get(name, OTHER_LABELS.get(name, name)) for name in ordered}


def study_reading_answer(reading: Reading) -> StudyReadingAnswer:
    """A stored reading of a study as the API returns it."""
    return StudyReadingAnswer(**_of_series_or_study(reading))


def reading_answer(reading: Reading) -> ReadingAnswer:
    """A stored reading as the API returns it."""
    return ReadingAnswer(**_of_series_or_study(reading), slices=reading.slices)


def _of_series_or_study(reading: Reading) -> dict[str, Any]:
    return {
        "number": reading.number,
        "label": reading.label,
        "state": reading.state,
        "comment": reading.comment,
        "reader": reading.reader,
        "read_at": reading.created_at,
        "result": reading.result_id,
        "answer": reading.answer,
        "model": reading.model,
        "withdrawn_at": reading.withdrawn_at,
    }
