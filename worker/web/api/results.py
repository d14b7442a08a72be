"""The REST interface, /api/v1: results and series, jobs, deliveries, models, destinations."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Path, Query, Request

from worker.audit import events
from worker.db.deliveries import retry_failed_deliveries
from worker.db.jobs import retry_parked_jobs
from worker.db.tables import DeliveryRow, DeliveryState, JobRow, JobState
from worker.db.views.queue import UnfinishedDelivery, UnfinishedJob, unfinished_deliveries, unfinished_jobs
from worker.db.views.search import Search, SeriesAnswer, find_page, find_series
from worker.db.views.series_detail import SliceAnswer, latest_slices
from worker.errors import WorkerError
from worker.send.destinations import destinations_of
from worker.send.destinations.base import Destination
from worker.web.api.models import ModelDesk, add_model_api
from worker.web.dependencies import API_PREFIX, BEARER, Operator, Reader, RowNumber, SeriesUid, Site
from worker.web.errors import CONFLICT, DOCUMENTED, NOT_FOUND
from worker.web.filters import LARGEST_NUMBER, LARGEST_PAGE, PagedFilters
from worker.web.guard import Caller


@dataclass(frozen=True, slots=True)
class SeriesPage:
    """Newest first; `older` and `newer` are the addresses of the next pages, null at an end."""

    series: tuple[SeriesAnswer, ...]
    older: str | None
    newer: str | None


@dataclass(frozen=True, slots=True)
class SeriesDetail:
    """One series, and the slices of its latest result in stack order."""

    series: SeriesAnswer
    slices: tuple[SliceAnswer, ...]


@dataclass(frozen=True, slots=True)
class JobPage:
    """Oldest first; ask again with `after` set to the last number."""

    jobs: tuple[UnfinishedJob, ...]


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Oldest first; ask again with `after` set to the last number."""

    deliveries: tuple[UnfinishedDelivery, ...]


@dataclass(frozen=True, slots=True)
class Retried:
    """The numbers of what will be tried again."""

    retried: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DestinationAnswer:
    """Where reports and pictures go; `address` is host:port or a URL."""

    name: str
    protocol: str
    ae_title: str | None
    address: str


@dataclass(frozen=True, slots=True)
class EchoAnswer:
    """Whether a destination answered; `reason` and `detail` say why not."""

    answers: bool
    milliseconds: int
    reason: str | None = None
    detail: str | None = None


def api_routes(site: Site) -> APIRouter:
    """Every route of /api/v1; each needs a token that reads, those that change something one that operates."""
    routes = APIRouter(
        prefix=API_PREFIX,
        responses=DOCUMENTED,
        dependencies=BEARER,
    )
    _add_series(routes, site)
    _add_jobs(routes, site)
    _add_deliveries(routes, site)
    add_model_api(routes, ModelDesk(site))
    _add_destinations(routes, site)
    return routes


def _add_series(routes: APIRouter, site: Site) -> None:
    def page(request: Request, filters: PagedFilters, caller: Caller, answered: bool) -> SeriesPage:
        site.record(events.queried(caller.name, caller.address, request.url.path, _asked(filters)))
        with site.database.read() as session:
            found = find_page(session, replace(filters.search(), answered=answered), filters.limit)
        return SeriesPage(
            series=found.answers,
            older=_address(request, filters, older_than=str(found.older_than)) if found.older_than else None,
            newer=_address(request, filters, newer_than=str(found.newer_than)) if found.newer_than else None,
        )

    @routes.get("/results", tags=["series"])
    def list_results(request: Request, filters: Annotated[PagedFilters, Query()], caller: Reader) -> SeriesPage:
        """Series for which a model gave a result: classified or not assessed."""
        return page(request, filters, caller, answered=True)

    @routes.get("/series", tags=["series"])
    def list_series(request: Request, filters: Annotated[PagedFilters, Query()], caller: Reader) -> SeriesPage:
        """Every series that was received, also refused, failed and pending ones, with the reason."""
        return page(request, filters, caller, answered=False)

    @routes.get("/results/{series_instance_uid}", tags=["series"], responses=NOT_FOUND)
    def show_result(series_instance_uid: SeriesUid, caller: Reader) -> SeriesDetail:
        """One series with its slices."""
        with site.database.read() as session:
            found = find_series(session, Search(series_instance_uid=series_instance_uid))
            slices = latest_slices(session, series_instance_uid)
        if not found:
            raise HTTPException(404, "no such series was received")
        site.record(events.viewed(caller.name, caller.address, found[0].study_instance_uid))
        return SeriesDetail(found[0], tuple(slices))

    routes.add_api_route(
        "/series/{series_instance_uid}", show_result, tags=["series"], responses=NOT_FOUND, operation_id="show_series"
    )


def _asked(filters: PagedFilters) -> dict[str, str]:
    return {key: str(value) for key, value in filters.model_dump(exclude_unset=True).items() if value is not None}


def _address(request: Request, filters: PagedFilters, **place: str) -> str:
    kept = filters.model_dump(mode="json", exclude_unset=True, exclude={"older_than", "newer_than"}, exclude_none=True)
    return f"{request.url.path}?{urlencode(kept | place)}"


_Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE)]
_JobStates = Literal[JobState.PENDING, JobState.RUNNING, JobState.PARKED]
_DeliveryStates = Literal[DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.FAILED]
_After = Annotated[int, Query(ge=0, le=LARGEST_NUMBER)]


def _add_jobs(routes: APIRouter, site: Site) -> None:
    @routes.get("/jobs", tags=["jobs"])
    def list_jobs(caller: Reader, state: _JobStates | None = None, after: _After = 0, limit: _Limit = 50) -> JobPage:
        """Jobs that are not done: pending, running, or parked with the reason. A series shows what was done."""
        with site.database.read() as session:
            return JobPage(tuple(unfinished_jobs(session, state, after, limit)))

    @routes.post("/jobs/retry", tags=["jobs"])
    def retry_all_jobs(request: Request, caller: Operator) -> Retried:
        """Give every parked job another chance."""
        with site.database.write() as session:
            retried = retry_parked_jobs(session, [], site.clock())
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return Retried(tuple(sorted(retried)))

    @routes.post("/jobs/{number}/retry", tags=["jobs"], responses=NOT_FOUND | CONFLICT)
    def retry_job(request: Request, number: RowNumber, caller: Operator) -> Retried:
        """Give a parked job another chance."""
        with site.database.write() as session:
            retried = retry_parked_jobs(session, [number], site.clock())
            known = session.get(JobRow, number)
        if known is None:
            raise HTTPException(404, "there is no such job")
        if not retried:
            raise HTTPException(409, "the job is not parked")
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return Retried(tuple(retried))


def _add_deliveries(routes: APIRouter, site: Site) -> None:
    @routes.get("/deliveries", tags=["deliveries"])
    def list_deliveries(
        caller: Reader, state: _DeliveryStates | None = None, after: _After = 0, limit: _Limit = 50
    ) -> DeliveryPage:
        """Deliveries that have not arrived: pending, sending, or failed with the reason. A series shows its own."""
        with site.database.read() as session:
            return DeliveryPage(tuple(unfinished_deliveries(session, state, after, limit)))

    @routes.post("/deliveries/retry", tags=["deliveries"])
    def retry_all_deliveries(request: Request, caller: Operator) -> Retried:
        """Try every failed delivery again."""
        with site.database.write() as session:
            retried = retry_failed_deliveries(session, site.clock())
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return Retried(tuple(sorted(retried)))

    @routes.post("/deliveries/{number}/retry", tags=["deliveries"], responses=NOT_FOUND | CONFLICT)
    def retry_delivery(request: Request, number: RowNumber, caller: Operator) -> Retried:
        """Try a failed delivery again, or one that waits now."""
        with site.database.write() as session:
            retried = retry_failed_deliveries(session, site.clock(), [number])
            known = session.get(DeliveryRow, number)
        if known is None:
            raise HTTPException(404, "there is no such delivery")
        if not retried:
            raise HTTPException(409, "the delivery is under way or has arrived")
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return Retried(tuple(retried))


def _add_destinations(routes: APIRouter, site: Site) -> None:
    @routes.get("/destinations", tags=["destinations"])
    def list_destinations(caller: Reader) -> tuple[DestinationAnswer, ...]:
        """Where reports and pictures go."""
        return tuple(destination_answer(destination) for destination in destinations_of(site.settings))

    @routes.post("/destinations/{name}/echo", tags=["destinations"], responses=NOT_FOUND)
    def echo(request: Request, name: Annotated[str, Path(max_length=64)], caller: Operator) -> EchoAnswer:
        """Ask a destination whether it is there (C-ECHO)."""
        if name not in [one.name for one in site.settings.destination]:
            raise HTTPException(404, "there is no such destination in the configuration")
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return ask(site, name)


def destination_answer(destination: Destination) -> DestinationAnswer:
    description = destination.describe()
    return DestinationAnswer(destination.name, description.protocol, description.ae_title, description.address)


def ask(site: Site, name: str) -> EchoAnswer:
    [destination] = [destination for destination in destinations_of(site.settings) if destination.name == name]
    started = time.monotonic()
    try:
        destination.probe(site.settings.worker.ae_title)
    except WorkerError as fault:
        return EchoAnswer(False, _since(started), fault.reason, fault.detail)
    return EchoAnswer(True, _since(started))


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
