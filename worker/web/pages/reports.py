"""/reports: the monthly reports that were written, as pages."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse

from worker.web.dependencies import NO_SUCH_REPORT, Month, Reader, Site
from worker.web.monthly_report import read_report, written_months
from worker.web.templating import render


def reports_page(site: Site) -> APIRouter:
    """The list of months, and the report of a month."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/reports")
    def reports(caller: Reader) -> HTMLResponse:
        return HTMLResponse(render("reports.html", caller, months=written_months(site.data_dir)))

    @routes.get("/reports/{month}")
    def report(month: Month, caller: Reader) -> HTMLResponse:
        content = read_report(site.data_dir, month)
        if content is None:
            raise HTTPException(404, NO_SUCH_REPORT)
        return HTMLResponse(
            render("month.html", caller, layout="base.html", report=content, titles=site.class_titles())
        )

    return routes
