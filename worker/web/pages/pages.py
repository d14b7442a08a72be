"""The page: worklist, one series, queue, peers, models, activity. HTML from templates; htmx keeps lists up to date."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import Field, model_validator

from worker.audit import events
from worker.db.deliveries import retry_failed_deliveries
from worker.db.jobs import retry_parked_jobs
from worker.db.readings import OTHER_LABELS, ReadState
from worker.db.tables import ModelState, SeriesStatus
from worker.db.views import activity
from worker.db.views.queue import unfinished_deliveries, unfinished_jobs
from worker.db.views.search import Search, find_page, find_series
from worker.db.views.series_detail import SeriesDetail, find_series_detail
from worker.send.destinations import destinations_of
from worker.web import charts, ohif
from worker.web.api.models import AskedSha256, ModelDesk, add_model_forms
from worker.web.api.readings import form_of
from worker.web.api.results import ask, destination_answer
from worker.web.dependencies import Operator, Reader, RowNumber, SeriesUid, Site
from worker.web.filters import PagedFilters
from worker.web.guard import Caller
from worker.web.pages.model_card import card_as_html
from worker.web.pages.model_figures import read_figures
from worker.web.templating import render, styles

PAGE_LENGTH = 50
_QUEUE_LENGTH = 200
_SPANS = {  # the choices of the activity page: title, length and number of the spans
    "day": ("24 hours", timedelta(hours=1), 24),
    "week": ("7 days", timedelta(hours=6), 28),
    "month": ("30 days", timedelta(days=1), 30),
}


class WorklistFilters(PagedFilters):
    """As a form sends them: what was left empty is not asked for. `seen` is what the browser shows already."""

    limit: int = Field(PAGE_LENGTH, ge=1, le=PAGE_LENGTH)
    seen: str | None = Field(None, max_length=64)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value != ""} if isinstance(given, dict) else given

    def asked(self) -> dict[str, Any]:
        """The filters that were set, as an address has them."""
        kept = {"limit", "older_than", "newer_than", "seen"}
        return self.model_dump(mode="json", exclude=kept, exclude_none=True)


def _page(site: Site, template: str, caller: Caller, **values: Any) -> HTMLResponse:
    with site.database.read() as session:
        parked, failed = activity.parked_counts(session)
    return HTMLResponse(render(template, caller, attention=parked + failed, **values))


def page_routes(site: Site) -> APIRouter:
    """Every page; each needs a token that reads, the buttons one that operates."""
    routes = APIRouter(include_in_schema=False)
    _add_worklist(routes, site)
    _add_series(routes, site)
    _add_queue(routes, site)
    _add_peers(routes, site)
    _add_models(routes, site)
    _add_activity(routes, site)
    return routes


def _add_worklist(routes: APIRouter, site: Site) -> None:
    @routes.get("/")
    def worklist(request: Request, filters: Annotated[WorklistFilters, Query()], caller: Reader) -> Response:
        search = PagedFilters(**filters.model_dump(exclude={"seen"})).search()
        with site.database.read() as session:
            found = find_page(session, search, filters.limit)
            counts = activity.count_by_status(session)
        if not filters.seen:
            shown = {key: str(value) for key, value in filters.asked().items()}
            site.record(events.queried(caller.name, caller.address, request.url.path, shown))
        state = hashlib.sha256(repr((found, counts)).encode()).hexdigest()[:16]
        if state == filters.seen:
            return Response(status_code=204)  # htmx leaves the page as it is, the reader's place and focus with it
        asked = filters.asked()
        first = search.older_than is None and search.newer_than is None
        return _page(
            site,
            "worklist.html",
            caller,
            answers=found.answers,
            counts=counts,
            asked=asked,
            statuses=list(SeriesStatus),
            read_states=list(ReadState),
            titles=site.class_titles(),
            read_titles=site.class_titles() | OTHER_LABELS,
            live=f"/?{urlencode(asked | {'seen': state})}" if first else None,
            first=None if first else f"/?{urlencode(asked)}",
            older=f"/?{urlencode(asked | {'older_than': str(found.older_than)})}" if found.older_than else None,
            newer=f"/?{urlencode(asked | {'newer_than': str(found.newer_than)})}" if found.newer_than else None,
            links={one.value: f"/?{urlencode(asked | {'status': one.value})}" for one in SeriesStatus},
            everything=f"/?{urlencode({key: value for key, value in asked.items() if key != 'status'})}",
        )


def _add_series(routes: APIRouter, site: Site) -> None:
    @routes.get("/series/{series_instance_uid}")
    def series(series_instance_uid: SeriesUid, caller: Reader) -> Response:
        with site.database.read() as session:
            found = find_series(session, Search(series_instance_uid=series_instance_uid))
            detail = find_series_detail(session, series_instance_uid)
            reading = form_of(session, series_instance_uid, site.class_titles())
        if not found or detail is None:
            raise HTTPException(404, "No such series was received.")
        [answer] = found
        site.record(events.viewed(caller.name, caller.address, answer.study_instance_uid))
        model = site.bundle(answer.model_sha256)
        names = list(model.titles) if model else list(answer.probabilities)
        deciding = [place for place, one in enumerate(detail.slices) if one.deciding]
        return _page(
            site,
            "series.html",
            caller,
            one=answer,
            detail=detail,
            reading=reading,
            model=model,
            names=names,
            titles=site.class_titles(),
            styles=styles(names),
            lines=_slice_lines(detail, names),
            deciding=deciding,
            shown=_first_shown(detail, names, answer.label),
            stored=any(one.file for one in detail.slices),
            ohif=ohif.is_installed(site.settings.worker.data_dir),
            maps=[place for place, one in enumerate(detail.slices) if one.activation is not None],
        )


def _first_shown(detail: SeriesDetail, names: list[str], label: str | None) -> int:
    """The slice of the picture that was sent: the deciding one that speaks most for the class; else the middle."""
    deciding = [place for place, one in enumerate(detail.slices) if one.deciding]
    if label not in names or not deciding:
        return len(detail.slices) // 2
    return max(deciding, key=lambda place: detail.slices[place].probabilities[names.index(label)])


def _slice_lines(detail: SeriesDetail, names: list[str]) -> list[charts.Line]:
    """A line a class over the slices; none where no model looked at them."""
    if not detail.slices or len(detail.slices[0].probabilities) != len(names):
        return []
    values = [[one.probabilities[place] for one in detail.slices] for place in range(len(names))]
    return charts.lines(names, list(styles(names).values()), values, 1.0)


def _add_queue(routes: APIRouter, site: Site) -> None:
    @routes.get("/queue")
    def queue(caller: Reader, tried: int | None = None) -> Response:
        with site.database.read() as session:
            jobs = unfinished_jobs(session, limit=_QUEUE_LENGTH)
            deliveries = unfinished_deliveries(session, limit=_QUEUE_LENGTH)
        return _page(
            site,
            "queue.html",
            caller,
            jobs=jobs,
            deliveries=deliveries,
            tried=tried,
            length=_QUEUE_LENGTH,
            now=site.clock(),
        )

    def again(request: Request, caller: Caller, retried: list[int]) -> Response:
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return RedirectResponse(f"/queue?tried={len(retried)}", 303)

    @routes.post("/queue/jobs/retry")
    def retry_all_jobs(request: Request, caller: Operator) -> Response:
        with site.database.write() as session:
            return again(request, caller, retry_parked_jobs(session, [], site.clock()))

    @routes.post("/queue/jobs/{number}/retry")
    def retry_job(request: Request, number: RowNumber, caller: Operator) -> Response:
        with site.database.write() as session:
            return again(request, caller, retry_parked_jobs(session, [number], site.clock()))

    @routes.post("/queue/deliveries/retry")
    def retry_all_deliveries(request: Request, caller: Operator) -> Response:
        with site.database.write() as session:
            return again(request, caller, retry_failed_deliveries(session, site.clock()))

    @routes.post("/queue/deliveries/{number}/retry")
    def retry_delivery(request: Request, number: RowNumber, caller: Operator) -> Response:
        with site.database.write() as session:
            return again(request, caller, retry_failed_deliveries(session, site.clock(), [number]))


def _add_peers(routes: APIRouter, site: Site) -> None:
    @routes.get("/peers")
    def peers(caller: Reader) -> Response:
        destinations = [destination_answer(destination) for destination in destinations_of(site.settings)]
        with site.database.read() as session:
            backlogs = {one.name: activity.find_backlog(session, one.name) for one in destinations}
            senders = activity.sending_peers(session)
        settings = site.settings
        return _page(
            site, "peers.html", caller, destinations=destinations, backlogs=backlogs, senders=senders, settings=settings
        )

    @routes.post("/peers/{name}/echo")
    def echo(request: Request, name: str, caller: Operator) -> Response:
        if name not in [one.name for one in site.settings.destination]:
            raise HTTPException(404, "There is no such destination in the configuration.")
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return HTMLResponse(render("echo.html", caller, name=name, answer=ask(site, name)))


def _add_models(routes: APIRouter, site: Site) -> None:
    desk = ModelDesk(site)

    @routes.get("/models")
    def models(caller: Reader) -> Response:
        bundles = {one.sha256: one for one in site.bundles()}
        cards = {sha256: card_as_html(one.card) for sha256, one in bundles.items()}
        measured = {sha256: read_figures(one.figures) for sha256, one in bundles.items()}
        known = desk.known()
        active = [one for one in known if one.state == ModelState.ACTIVE]
        return _page(
            site, "models.html", caller, known=known, active=active, bundles=bundles, cards=cards, measured=measured
        )

    @routes.get("/models/compare")
    def compare(first: AskedSha256, second: AskedSha256, caller: Reader) -> Response:
        found = desk.compare(first, second)
        counts = {(cell.first, cell.second): cell.n for cell in found.confusion}
        rows = sorted({cell.first for cell in found.confusion})
        columns = sorted({cell.second for cell in found.confusion})
        return _page(site, "compare.html", caller, one=found, counts=counts, rows=rows, columns=columns)

    add_model_forms(routes, desk)


def _add_activity(routes: APIRouter, site: Site) -> None:
    @routes.get("/activity")
    def over_time(caller: Reader, span: str = "week") -> Response:
        if span not in _SPANS:
            raise HTTPException(422, f"span: one of {', '.join(_SPANS)}")
        title, length, number = _SPANS[span]
        with site.database.read() as session:
            found = activity.find_activity(session, site.clock(), length, number)
        titles = site.class_titles()
        seen = {name for one in found.spans for name in one.answers}
        names = [*[name for name in titles if name in seen], *sorted(seen - set(titles))]
        colours = {name: styles(titles).get(name, "c-none") for name in names}
        top = charts.round_top(max(one.answers.total() for one in found.spans))
        slowest = charts.round_top(max((one.slowest_seconds or 0.0) for one in found.spans))
        return _page(
            site,
            "activity.html",
            caller,
            spans=found.spans,
            whole=found.whole,
            totals={name: sum(one.answers[name] for one in found.spans) for name in names},
            total=sum(one.answers.total() for one in found.spans),
            title=title,
            span=span,
            choices={key: value[0] for key, value in _SPANS.items()},
            names=names,
            titles=titles,
            styles=colours,
            top=top,
            slowest=slowest,
            bars=charts.stacked(
                list(colours.values()), [[one.answers[name] for name in names] for one in found.spans], top
            ),
            lines=charts.lines(
                ["median", "95th percentile"],
                ["l0", "l1"],
                [[one.median_seconds for one in found.spans], [one.slowest_seconds for one in found.spans]],
                slowest,
            ),
        )
