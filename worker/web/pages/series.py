"""GET /series/{uid}: a series with the answer for its study, its images, result, readings, slices and deliveries."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from worker.audit import events
from worker.db.views.conflicts import versions_of_series
from worker.db.views.search import Search, find_series
from worker.db.views.series_detail import find_series_detail
from worker.db.views.studies import find_study
from worker.web.dependencies import (
    NO_SUCH_SERIES,
    Operator,
    Reader,
    SeriesUid,
    Site,
    reconsider_refused_series,
)
from worker.web.pages.layout import render_page
from worker.web.pages.reading_form import empty_form
from worker.web.pages.viewer import beside_series, by_number, viewer_values


def series_page(site: Site) -> APIRouter:
    """The page, for a token that reads, and an operator's button.

    `pages.images` serves its images and `pages.reading_form` its form.
    """
    routes = APIRouter(include_in_schema=False)

    @routes.get("/series/{series_instance_uid}")
    def series(series_instance_uid: SeriesUid, caller: Reader) -> Response:
        with site.database.read() as session:
            matches = find_series(session, Search(series_instance_uid=series_instance_uid))
            detail = find_series_detail(session, series_instance_uid)
            versions = versions_of_series(session, series_instance_uid)
            reading = empty_form(session, series_instance_uid, site.class_titles())
            study = find_study(session, matches[0].study_instance_uid) if matches else None
        if not matches or detail is None:
            raise HTTPException(404, NO_SUCH_SERIES)
        [answer] = matches
        ordered = [item.series_instance_uid for item in by_number(study.series)] if study is not None else []
        site.record(events.viewed(caller.name, caller.address, answer.study_instance_uid))
        return render_page(
            site,
            "series.html",
            caller,
            study=study if study is not None and len(study.series) > 1 else None,
            beside_series=beside_series(ordered, series_instance_uid, "/series/"),
            versions=versions,
            reading=reading,
            **viewer_values(site, answer, detail),
        )

    @routes.post("/series/{series_instance_uid}/reconsider")
    def reconsider(request: Request, series_instance_uid: SeriesUid, caller: Operator) -> Response:
        reconsider_refused_series(site, series_instance_uid, caller, request.url.path)
        return RedirectResponse(f"/series/{series_instance_uid}", 303)

    return routes
