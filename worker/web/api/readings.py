"""GET, POST and DELETE /api/v1/{series|studies}/{uid}/readings: what readers found in a series or a study."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response

from worker.audit import events
from worker.db.readings import readings_of
from worker.db.studies.readings import study_readings_of
from worker.web.dependencies import Annotator, Reader, SeriesUid, Site, StudyUid, api_router
from worker.web.errors import CONFLICT, NOT_FOUND
from worker.web.readings import (
    ReadingAnswer,
    ReadingEntry,
    ReadingNumber,
    StudyReadingAnswer,
    StudyReadingEntry,
    possible_labels,
    reading_answer,
    record_reading,
    record_study_reading,
    require_series,
    require_study,
    study_reading_answer,
    withdraw_reading_of_study,
    withdraw_series_reading,
)


@dataclass(frozen=True, slots=True)
class ReadingList:
    """The readings of a series, the latest first. Send a new reading with `after` and `result` as they are here."""

    readings: tuple[ReadingAnswer, ...]
    after: int
    result: int | None
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class StudyReadingList:
    """The readings of a study, the latest first. Send a new reading with `after` and `result` as they are here."""

    readings: tuple[StudyReadingAnswer, ...]
    after: int
    result: int | None
    labels: dict[str, str]


def readings_api(site: Site) -> APIRouter:
    """The routes; writing needs a token that may annotate."""
    routes = api_router("series")

    @routes.get("/series/{series_instance_uid}/readings", responses=NOT_FOUND)
    def list_readings(series_instance_uid: SeriesUid, caller: Reader) -> ReadingList:
        """Every reading of a series with its reader, and what a new reading needs."""
        with site.database.read() as session:
            series = require_series(session, series_instance_uid)
            readings = readings_of(session, series.series_id)
        site.record(events.viewed(caller.name, caller.address, series.study_instance_uid))
        return ReadingList(
            readings=tuple(reading_answer(reading) for reading in readings),
            after=readings[0].number if readings else 0,
            result=series.result_id,
            labels=possible_labels(series, site.class_titles()),
        )

    @routes.post("/series/{series_instance_uid}/readings", status_code=201, responses=NOT_FOUND | CONFLICT)
    def add_reading(series_instance_uid: SeriesUid, entry: ReadingEntry, caller: Annotator) -> ReadingAnswer:
        """Confirm or correct the label of a series; 409 where it was read or answered since you looked."""
        return record_reading(site, series_instance_uid, entry, caller)

    @routes.delete("/series/{series_instance_uid}/readings/{number}", status_code=204, responses=NOT_FOUND | CONFLICT)
    def withdraw(series_instance_uid: SeriesUid, number: ReadingNumber, caller: Annotator) -> Response:
        """Withdraw your own latest reading: it stays in the list, and the reading before it counts again."""
        withdraw_series_reading(site, series_instance_uid, number, caller)
        return Response(status_code=204)

    @routes.get("/studies/{study_instance_uid}/readings", responses=NOT_FOUND)
    def list_study_readings(study_instance_uid: StudyUid, caller: Reader) -> StudyReadingList:
        """Every reading of a study with its reader, and what a new reading needs."""
        with site.database.read() as session:
            study = require_study(session, study_instance_uid)
            readings = study_readings_of(session, study.study_id)
        site.record(events.viewed(caller.name, caller.address, study_instance_uid))
        return StudyReadingList(
            readings=tuple(study_reading_answer(reading) for reading in readings),
            after=readings[0].number if readings else 0,
            result=study.result_id,
            labels=possible_labels(study, site.class_titles()),
        )

    @routes.post("/studies/{study_instance_uid}/readings", status_code=201, responses=NOT_FOUND | CONFLICT)
    def add_study_reading(
        study_instance_uid: StudyUid, entry: StudyReadingEntry, caller: Annotator
    ) -> StudyReadingAnswer:
        """Confirm or correct the answer for a study, which its series inherit; 409 where that has changed."""
        return study_reading_answer(record_study_reading(site, study_instance_uid, entry, caller))

    @routes.delete("/studies/{study_instance_uid}/readings/{number}", status_code=204, responses=NOT_FOUND | CONFLICT)
    def withdraw_of_study(study_instance_uid: StudyUid, number: ReadingNumber, caller: Annotator) -> Response:
        """Withdraw your own latest reading of a study, and what its series inherited of it."""
        withdraw_reading_of_study(site, study_instance_uid, number, caller)
        return Response(status_code=204)

    return routes
