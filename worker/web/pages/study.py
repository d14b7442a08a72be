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
from worker.db.readings import NOT_ASSESSABLE, Reading, ReadMeanwhile
from worker.db.studies.readings import study_readings_of, study_to_read
from worker.db.tables import ReadState
from worker.db.views.search import Search, SeriesAnswer, find_series
from worker.db.views.series_detail import find_series_detail
from worker.db.views.studies import StudyAnswer, StudySeriesAnswer, find_study, find_study_documents
from worker.db.views.worklist.pages import next_study, study_position
from worker.web.dependencies import NO_SUCH_STUDY, Annotator, Reader, Site, StudyUid
from worker.web.filters import Uid
from worker.web.guard import Caller, posted
from worker.web.pages.layout import render_page
from worker.web.pages.reading_form import fault_in_words
from worker.web.pages.viewer import viewer_values
from worker.web.pages.worklist import WorklistFilters
from worker.web.readings import StudyReadingEntry, possible_labels, record_study_reading


class StudyPageParameters(WorklistFilters):
    """The filters of the list that the page was opened from, and the series to show."""

    show: Uid | None = Field(None, description="Series Instance UID.")

    def query(self) -> str:
        """The filters as they stand in an address, and the series."""
        return urlencode(self.chosen() | ({"show": self.show} if self.show else {}))


Parameters = Annotated[StudyPageParameters, Query()]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The studies beside a study in the list that it was opened from, and the next that nobody has read."""

    newer: str | None
    older: str | None
    unread: str | None


@dataclass(frozen=True, slots=True)
class StudyForm:
    """The readings of a study, and the form as it is filled in; `agree` is the label that agrees with the answer."""

    readings: Sequence[Reading]
    labels: Mapping[str, str]
    after: int
    result: int | None
    agree: str | None
    label: str = ""
    comment: str = ""
    fault: str | None = None


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
        try:
            record_study_reading(site, study_instance_uid, _entry(fields), caller)
        except ReadMeanwhile as error:
            fault = f"{error.detail}. Review the reading below; your entries are still in the form."
            return _page(site, study_instance_uid, parameters, caller, fields, fault, 409)
        except (HTTPException, ValueError) as error:
            if isinstance(error, HTTPException) and error.status_code != 422:
                raise
            why = error.detail if isinstance(error, HTTPException) else fault_in_words(error)
            return _page(site, study_instance_uid, parameters, caller, fields, f"Not saved. {why}", 422)
        query = f"?{query}" if (query := urlencode(parameters.chosen())) else ""
        if fields.get("then") != "unread":
            return RedirectResponse(f"/studies/{study_instance_uid}{query}#reading", 303)
        with site.database.read() as session:
            unread = neighbours(session, study_instance_uid, parameters.search()).unread
        return RedirectResponse(f"/studies/{unread}{query}" if unread else f"/{query}", 303)

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
        form = study_form(session, study_instance_uid, site.class_titles())
        documents = find_study_documents(session, study_instance_uid)
        beside = neighbours(session, study_instance_uid, parameters.search())
    if detail is None or form is None:
        raise HTTPException(404, NO_SUCH_STUDY)
    if fields is not None:
        form = replace(form, label=fields.get("label", ""), comment=fields.get("comment", ""), fault=fault)
    by_uid = {answer.series_instance_uid: answer for answer in answers}
    ordered = sorted(found.series, key=lambda item: (item.series_number is None, item.series_number or 0))
    chosen = parameters.chosen()
    return render_page(
        site,
        "study.html",
        caller,
        status=status,
        study=found,
        cards=[(item, by_uid[item.series_instance_uid]) for item in ordered if item.series_instance_uid in by_uid],
        reading=form,
        beside=beside,
        documents=documents,
        chosen=chosen,
        query=f"?{urlencode(chosen)}" if chosen else "",
        here_query=f"?{query}" if (query := parameters.query()) else "",
        show_query=f"?{urlencode(chosen)}&show=" if chosen else "?show=",
        **viewer_values(site, shown, detail),
    )


def study_form(session: Session, study_instance_uid: str, titles: Mapping[str, str]) -> StudyForm | None:
    """The form before anything is entered; None where there is no such study."""
    study = study_to_read(session, study_instance_uid)
    if study is None:
        return None
    readings = study_readings_of(session, study.study_id)
    is_answered = study.result_id is not None or study.label is not None
    return StudyForm(
        readings=readings,
        labels=possible_labels(study, titles),
        after=readings[0].number if readings else 0,
        result=study.result_id,
        agree=(study.label or NOT_ASSESSABLE) if is_answered else None,
    )


def _entry(fields: Mapping[str, str]) -> StudyReadingEntry:
    """Raises ValidationError."""
    return StudyReadingEntry.model_validate(
        {
            "label": fields.get("label", ""),
            "comment": fields.get("comment", ""),
            "after": fields.get("after") or 0,
            "result": fields.get("result") or None,
        }
    )


def neighbours(session: Session, study_instance_uid: str, search: Search) -> Neighbours:
    """Those of a study among the studies that match; the next unread study begins again at the newest."""
    position = study_position(session, study_instance_uid)
    if position is None:
        return Neighbours(None, None, None)
    beside = replace(search, older_than=None, newer_than=None)
    waiting = replace(beside, reading=ReadState.UNREAD, answered=True)
    unread = next_study(session, replace(waiting, older_than=position)) or next_study(session, waiting)
    return Neighbours(
        newer=next_study(session, replace(beside, newer_than=position)),
        older=next_study(session, replace(beside, older_than=position)),
        unread=unread if unread != study_instance_uid else None,
    )


def _shown_series(wanted: str | None, study: StudyAnswer, answers: Sequence[SeriesAnswer]) -> SeriesAnswer:
    """The series that was asked for; else the deciding series, that which counts most, one with a class, or any."""
    order = {
        item.series_instance_uid: (item.series_instance_uid == wanted, item.deciding, item.weight or 0, _rank(item))
        for item in study.series
    }
    return max(answers, key=lambda answer: order[answer.series_instance_uid])


def _rank(item: StudySeriesAnswer) -> bool:
    return item.label is not None
