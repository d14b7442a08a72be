"""GET /api/v1/series and /results: every series that was received, or only those that a model answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request

from worker.audit import events
from worker.db.models import NoSuchModel, NotPossible, model_by_sha256
from worker.db.series import classify_again
from worker.db.views.search import Search, SeriesAnswer, find_page, find_series
from worker.db.views.series_detail import RefusedImages, SliceAnswer, latest_slices, refused_images
from worker.errors import StartError
from worker.jobs.bundle_store import BundleStore
from worker.web.dependencies import (
    NO_SUCH_SERIES,
    BundleHashQuery,
    Operator,
    Reader,
    SeriesUid,
    Site,
    api_router,
    reconsider_refused_series,
)
from worker.web.errors import CONFLICT, NOT_FOUND
from worker.web.filters import PagedFilters
from worker.web.guard import Caller


@dataclass(frozen=True, slots=True)
class SeriesPage:
    """Newest first; `older` and `newer` are the addresses of the next pages, null at an end."""

    series: tuple[SeriesAnswer, ...]
    older: str | None
    newer: str | None


@dataclass(frozen=True, slots=True)
class SeriesWithSlices:
    """A series, the slices of its latest result in stack order, and what was refused of it and did not come again."""

    series: SeriesAnswer
    slices: tuple[SliceAnswer, ...]
    refused: tuple[RefusedImages, ...]


@dataclass(frozen=True, slots=True)
class Queued:
    """The number of the job that will classify a series."""

    job: int


@dataclass(frozen=True, slots=True)
class Reconsidered:
    """A series that was refused and will be settled again."""

    series_instance_uid: str


def series_api(site: Site) -> APIRouter:
    """The routes, for a token that reads; settling again needs a token that operates."""
    routes = api_router("series")

    def find(request: Request, filters: PagedFilters, caller: Caller, answered: bool) -> SeriesPage:
        site.record(events.queried(caller.name, caller.address, request.url.path, _filters_set(filters)))
        with site.database.read() as session:
            page = find_page(session, replace(filters.search(), answered=answered), filters.limit)
        return SeriesPage(
            series=page.answers,
            older=_address(request, filters, older_than=str(page.older_than)) if page.older_than else None,
            newer=_address(request, filters, newer_than=str(page.newer_than)) if page.newer_than else None,
        )

    @routes.get("/results")
    def list_results(request: Request, filters: Annotated[PagedFilters, Query()], caller: Reader) -> SeriesPage:
        """Series for which a model gave a result: classified or not assessed."""
        return find(request, filters, caller, answered=True)

    @routes.get("/series")
    def list_series(request: Request, filters: Annotated[PagedFilters, Query()], caller: Reader) -> SeriesPage:
        """Every series that was received, including refused, failed and pending series, with the reason."""
        return find(request, filters, caller, answered=False)

    @routes.get("/results/{series_instance_uid}", responses=NOT_FOUND)
    def show_result(series_instance_uid: SeriesUid, caller: Reader) -> SeriesWithSlices:
        """A series with its slices."""
        with site.database.read() as session:
            matches = find_series(session, Search(series_instance_uid=series_instance_uid))
            slices = latest_slices(session, series_instance_uid)
            refused = refused_images(session, series_instance_uid)
        if not matches:
            raise HTTPException(404, NO_SUCH_SERIES)
        [series] = matches
        site.record(events.viewed(caller.name, caller.address, series.study_instance_uid))
        return SeriesWithSlices(series, tuple(slices), refused)

    @routes.post("/series/{series_instance_uid}/reconsider", responses=NOT_FOUND | CONFLICT)
    def reconsider(request: Request, series_instance_uid: SeriesUid, caller: Operator) -> Reconsidered:
        """Settle a refused series again, by the rules and models of now."""
        reconsider_refused_series(site, series_instance_uid, caller, request.url.path)
        return Reconsidered(series_instance_uid)

    @routes.post("/series/{series_instance_uid}/classify", responses=NOT_FOUND | CONFLICT)
    def classify(request: Request, series_instance_uid: SeriesUid, model: BundleHashQuery, caller: Operator) -> Queued:
        """Classify an answered series again with another model, by its bundle hash; the new answer replaces the old."""
        try:
            with site.database.write() as session:
                if not find_series(session, Search(series_instance_uid=series_instance_uid)):
                    raise HTTPException(404, NO_SUCH_SERIES)
                row = model_by_sha256(session, model)
                BundleStore(site.settings).require(model)
                job = classify_again(session, series_instance_uid, row, site.clock())
        except NoSuchModel as fault:
            raise HTTPException(404, fault.detail) from None
        except (NotPossible, StartError) as fault:
            raise HTTPException(409, fault.detail) from None
        audited = f"{request.url.path} by {row.name} {row.version}"
        site.record(events.operated(caller.name, caller.address, audited))
        return Queued(job.id)

    routes.add_api_route("/series/{series_instance_uid}", show_result, responses=NOT_FOUND, operation_id="show_series")
    return routes


def _filters_set(filters: PagedFilters) -> dict[str, str]:
    return {key: str(value) for key, value in filters.model_dump(exclude_unset=True).items() if value is not None}


def _address(request: Request, filters: PagedFilters, **position: str) -> str:
    """The address of another page with the same filters."""
    chosen = filters.model_dump(
        mode="json", exclude_unset=True, exclude={"older_than", "newer_than"}, exclude_none=True
    )
    return f"{request.url.path}?{urlencode(chosen | position)}"
