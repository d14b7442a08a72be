"""GET /: the worklist, newest study first; htmx keeps it up to date."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator

from worker.audit import events
from worker.db.readings import OTHER_LABELS
from worker.db.tables import ReadState, SeriesStatus
from worker.db.views.search import Search
from worker.db.views.worklist.numbers import count_studies
from worker.db.views.worklist.pages import find_study_page
from worker.dicom.series_terms import Sequence
from worker.web.dependencies import Reader, Site
from worker.web.filters import PagedFilters
from worker.web.pages.layout import render_page

PAGE_LENGTH = 50


class WorklistFilters(PagedFilters):
    """The filters as a form sends them: empty fields do not filter. `seen` is the state that the browser shows."""

    limit: int = Field(PAGE_LENGTH, ge=1, le=PAGE_LENGTH)
    seen: str | None = Field(None, max_length=64)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value != ""} if isinstance(given, dict) else given

    def search(self) -> Search:
        return PagedFilters(**self.model_dump(include=set(PagedFilters.model_fields))).search()

    def chosen(self) -> dict[str, Any]:
        """The filters that were set, as they stand in an address."""
        others = {"limit", "older_than", "newer_than", "seen", "show", "saved"}
        return self.model_dump(mode="json", exclude=others, exclude_none=True)


def worklist_page(site: Site) -> APIRouter:
    """The page, for a token that reads."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def worklist(request: Request, filters: Annotated[WorklistFilters, Query()], caller: Reader) -> Response:
        search = filters.search()
        with site.database.read() as session:
            page = find_study_page(session, search, filters.limit)
            counts = count_studies(session, search)
        chosen = filters.chosen()
        if not filters.seen:
            audited = {key: str(value) for key, value in chosen.items()}
            site.record(events.queried(caller.name, caller.address, request.url.path, audited))
        state = hashlib.sha256(repr((page, counts)).encode()).hexdigest()[:16]
        if state == filters.seen:
            return Response(status_code=204)  # htmx then leaves the page, its scroll position and its focus as they are
        first = search.older_than is None and search.newer_than is None
        return render_page(
            site,
            "worklist.html",
            caller,
            studies=page.studies,
            query=f"?{urlencode(chosen)}" if chosen else "",
            lesions=set(site.class_titles()) - site.no_lesion_labels(),
            counts=counts,
            chosen=chosen,
            statuses=list(SeriesStatus),
            read_states=list(ReadState),
            sequences=list(Sequence),
            titles=site.class_titles(),
            read_titles=OTHER_LABELS | site.class_titles(),
            live=f"/?{urlencode(chosen | {'seen': state})}" if first else None,
            first=None if first else f"/?{urlencode(chosen)}",
            older=f"/?{urlencode(chosen | {'older_than': str(page.older_than)})}" if page.older_than else None,
            newer=f"/?{urlencode(chosen | {'newer_than': str(page.newer_than)})}" if page.newer_than else None,
            links={status.value: f"/?{urlencode(chosen | {'status': status.value})}" for status in SeriesStatus},
            everything=f"/?{urlencode({key: value for key, value in chosen.items() if key != 'status'})}",
        )

    return routes
