"""/studies/{uid}: a study with its series side by side, a viewer for the chosen series, its answer and its readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import Field

from worker.audit import events
from worker.db.engine import Session
from worker.db.readings import NOT_ASSESSABLE, series_to_read
from worker.db.studies.readings import inherits_reading, marked_slices, study_readings_of, study_to_read
from worker.db.tables import ReadState
from worker.db.views.search import Search, SeriesAnswer, find_series
from worker.db.views.series_detail import find_series_detail
from worker.db.views.studies import StudyAnswer, StudySeriesAnswer, find_study, find_study_documents
from worker.db.views.worklist.pages import next_study, study_position
from worker.web.dependencies import NO_SUCH_STUDY, Annotator, Reader, Site, StudyUid
from worker.web.filters import Uid
from worker.web.guard import Caller, posted
from worker.web.pages.layout import render_page
from worker.web.pages.reading_form import SLICES, ReadingForm, fault_of, slices_as_text, slices_from_text
from worker.web.pages.viewer import beside_series, by_number, viewer_values
from worker.web.pages.worklist import WorklistFilters
from worker.web.readings import (
    ReadingNumber,
    StudyReadingEntry,
    possible_labels,
    record_study_reading,
    withdraw_reading_of_study,
)


class StudyPageParameters(WorklistFilters):
    """The filters of the list that the page was opened from, and the series to show."""

    show: Uid | None = Field(None, description="Series Instance UID.")
    saved: Uid | None = Field(None, description="The study that the page before saved a finding on.")

    def query(self) -> str:
        """The filters and the series as they end an address: with a question mark, or nothing."""
        query = urlencode(self.chosen() | ({"show": self.show} if self.show else {}))
        return f"?{query}" if query else ""


Parameters = Annotated[StudyPageParameters, Query()]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The studies beside a study in the list that it was opened from, and the next that nobody has read."""

    newer: str | None
    older: str | None
    unread: str | None


@dataclass(frozen=True, slots=True)
class Saved:
    """The reader's latest finding on another study, which the page before saved, and whose study that is."""

    study_instance_uid: str
    patient_name: str
    patient_id: str
    number: int
    label: str


def study_page(site: Site) -> APIRouter:
    """The page, for a token that reads, and its form, for a token that may annotate."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/studies/{study_instance_uid}")
    def study(study_instance_uid: StudyUid, parameters: Parameters, caller: Reader) -> Response:
        page = _page(site, study_instance_uid, parameters, caller)
        site.record(events.viewed(caller.name, caller.address, study_instance_uid))
        return page

    @routes.post("/studies/{study_instance_uid}/readings")
    def submit(
        study_instance_uid: StudyUid,
        parameters: Parameters,
        caller: Annotator,
        fields: Annotated[dict[str, str], Depends(posted)],
    ) -> Response:
        review = ". Review the reading below; your entries are still in the form."
        fault, status = fault_of(lambda: record_study_reading(site, study_instance_uid, _entry(fields), caller), review)
        if fault is not None:
            return _page(site, study_instance_uid, parameters, caller, fields, fault, status)
        unread = None
        if fields.get("then") == "unread":
            with site.database.read() as session:
                unread = neighbours(session, study_instance_uid, parameters.search()).unread
        if unread is None:
            return RedirectResponse(f"/studies/{study_instance_uid}{parameters.query()}#reading", 303)
        query = urlencode(parameters.chosen() | {"saved": study_instance_uid})
        return RedirectResponse(f"/studies/{unread}?{query}", 303)

    @routes.post("/studies/{study_instance_uid}/readings/{number}/withdraw")
    def withdraw(
        study_instance_uid: StudyUid, number: ReadingNumber, parameters: Parameters, caller: Annotator
    ) -> Response:
        fault, status = fault_of(lambda: withdraw_reading_of_study(site, study_instance_uid, number, caller))
        if fault is not None:
            return _page(site, study_instance_uid, parameters, caller, None, fault, status)
        return RedirectResponse(f"/studies/{study_instance_uid}{parameters.query()}#reading", 303)

    @routes.get("/unread")
    def first_unread(filters: Annotated[WorklistFilters, Query()], caller: Reader) -> Response:
        """The newest unread study of a list, or the list without any."""
        search = replace(filters.search(), older_than=None, newer_than=None)
        with site.database.read() as session:
            unread = next_study(session, _unread(search))
        chosen = filters.chosen()
        query = f"?{urlencode(chosen)}" if chosen else ""
        if unread is None:
            return RedirectResponse(f"/?{urlencode(chosen | {'reading': str(ReadState.UNREAD)})}", 303)
        return RedirectResponse(f"/studies/{unread}{query}", 303)

    return routes


def _page(
    site: Site,
    study_instance_uid: str,
    parameters: StudyPageParameters,
    caller: Caller,
    fields: Mapping[str, str] | None = None,
    fault: str | None = None,
    status: int = 200,
) -> HTMLResponse:
    """The page; with `fault` the form as it was sent."""
    with site.database.read() as session:
        found = find_study(session, study_instance_uid)
        answers = find_series(session, Search(study_instance_uid=study_instance_uid, limit=None))
        if found is None or not answers:
            raise HTTPException(404, NO_SUCH_STUDY)
        shown = _shown_series(parameters.show, found, answers)
        detail = find_series_detail(session, shown.series_instance_uid)
        form = study_form(session, study_instance_uid, shown.series_instance_uid, site.class_titles())
        saved = _saved(session, parameters.saved, caller)
        documents = find_study_documents(session, study_instance_uid)
        beside = neighbours(session, study_instance_uid, parameters.search())
    if detail is None or form is None:
        raise HTTPException(404, NO_SUCH_STUDY)
    form = replace(form, query=parameters.query())
    if fault is not None:
        form = form.refused(fault, fields)
    by_uid = {answer.series_instance_uid: answer for answer in answers}
    ordered = by_number(found.series)
    chosen = parameters.chosen()
    show = f"/studies/{study_instance_uid}?{urlencode(chosen | {'show': ''})}"
    return render_page(
        site,
        "study.html",
        caller,
        status=status,
        study=found,
        takers=list(site.settings.nodes),
        cards=[(item, by_uid[item.series_instance_uid]) for item in ordered if item.series_instance_uid in by_uid],
        reading=form,
        saved=saved,
        beside=beside,
        documents=documents,
        chosen=chosen,
        beside_series=beside_series([item.series_instance_uid for item in ordered], shown.series_instance_uid, show),
        query=f"?{urlencode(chosen)}" if chosen else "",
        show=show,
        **viewer_values(site, shown, detail),
    )


def study_form(session: Session, study_instance_uid: str, shown: str, titles: Mapping[str, str]) -> ReadingForm | None:
    """The form before anything is entered; None where there is no such study. `shown`: the series of the viewer."""
    study = study_to_read(session, study_instance_uid)
    if study is None:
        return None
    readings = study_readings_of(session, study.study_id)
    is_answered = study.result_id is not None or study.label is not None
    marked = marked_slices(session, study_instance_uid)
    series = series_to_read(session, shown)
    is_markable = series is not None and series.slices > 0 and inherits_reading(session, shown)
    return ReadingForm(
        of="study",
        address=f"/studies/{study_instance_uid}",
        readings=readings,
        labels=possible_labels(study, titles),
        after=readings[0].number if readings else 0,
        result=study.result_id,
        agree=(study.label or NOT_ASSESSABLE) if is_answered else None,
        slices_name=f"{SLICES}-{shown}" if is_markable else "",
        slices={f"{SLICES}-{uid}": slices_as_text(ordinals) for uid, ordinals in marked.items()},
    )


def _saved(session: Session, study_instance_uid: str | None, caller: Caller) -> Saved | None:
    """What the caller may take back on the page of the next study."""
    study = study_to_read(session, study_instance_uid) if study_instance_uid else None
    found = find_study(session, study.study_instance_uid) if study else None
    if study is None or found is None:
        return None
    readings = study_readings_of(session, study.study_id)
    standing = next((reading for reading in readings if reading.withdrawn_at is None), None)
    if standing is None or standing.reader != caller.name:
        return None
    return Saved(study.study_instance_uid, found.patient_name, found.patient_id, standing.number, standing.label)


def _entry(fields: Mapping[str, str]) -> StudyReadingEntry:
    """Raises ValueError in words for a reader (pydantic's ValidationError is a ValueError)."""
    marked = {name.removeprefix(f"{SLICES}-"): text for name, text in fields.items() if name.startswith(f"{SLICES}-")}
    return StudyReadingEntry.model_validate(
        {
            "label": fields.get("label", ""),
            "comment": fields.get("comment", ""),
            "after": fields.get("after") or 0,
            "result": fields.get("result") or None,
            "slices": {uid: slices_from_text(text) for uid, text in marked.items()},
        }
    )


def neighbours(session: Session, study_instance_uid: str, search: Search) -> Neighbours:
    """Those of a study among the studies that match; the next unread study begins again at the newest."""
    position = study_position(session, study_instance_uid)
    if position is None:
        return Neighbours(None, None, None)
    beside = replace(search, older_than=None, newer_than=None)
    waiting = _unread(beside)
    unread = next_study(session, replace(waiting, older_than=position)) or next_study(session, waiting)
    return Neighbours(
        newer=next_study(session, replace(beside, newer_than=position)),
        older=next_study(session, replace(beside, older_than=position)),
        unread=unread if unread != study_instance_uid else None,
    )


def _unread(search: Search) -> Search:
    return replace(search, reading=ReadState.UNREAD, answered=True)


def _shown_series(wanted: str | None, study: StudyAnswer, answers: Sequence[SeriesAnswer]) -> SeriesAnswer:
    """The series that was asked for; else the deciding series, that which counts most, that with a class, or any."""
    order = {
        item.series_instance_uid: (item.series_instance_uid == wanted, item.deciding, item.weight or 0, _rank(item))
        for item in study.series
    }
    return max(answers, key=lambda answer: order[answer.series_instance_uid])


def _rank(item: StudySeriesAnswer) -> bool:
    return item.label is not None
