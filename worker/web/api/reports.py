"""The monthly reports that were written: listed and shown on the page, and as JSON at /api/v1/reports."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from fastapi.responses import HTMLResponse

from worker.web.dependencies import API_PREFIX, BEARER, Reader, Site
from worker.web.errors import DOCUMENTED, NOT_FOUND
from worker.web.monthly_report import read_report, written_months
from worker.web.templating import render

Month = Annotated[str, Path(pattern=r"^[12]\d{3}-(0[1-9]|1[0-2])$")]
_NOT_WRITTEN = "there is no report of this month"


def report_routes(site: Site) -> APIRouter:
    """What is in `data_dir/reports`; nothing is computed here."""
    folder = site.data_dir
    api = APIRouter(prefix=API_PREFIX, responses=DOCUMENTED, dependencies=BEARER, tags=["reports"])
    pages = APIRouter(include_in_schema=False)

    @api.get("/reports")
    def list_reports(caller: Reader) -> list[str]:
        """Months with a report, the newest first."""
        return written_months(folder)

    @api.get("/reports/{month}", responses=NOT_FOUND)
    def show_report(month: Month, caller: Reader) -> dict[str, Any]:
        """Agreement of readers and models, drift and calibration of one month; see docs/retraining.md."""
        return _found(month)

    @pages.get("/reports")
    def reports(caller: Reader) -> HTMLResponse:
        return HTMLResponse(render("reports.html", caller, months=written_months(folder)))

    @pages.get("/reports/{month}")
    def report(month: Month, caller: Reader) -> HTMLResponse:
        return HTMLResponse(render("month.html", caller, layout="base.html", report=_found(month)))

    def _found(month: str) -> dict[str, Any]:
        content = read_report(folder, month)
        if content is None:
            raise HTTPException(404, _NOT_WRITTEN)
        return content

    routes = APIRouter()
    routes.include_router(api)
    routes.include_router(pages)
    return routes
