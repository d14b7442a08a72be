"""GET /api/v1/reports: the monthly reports that were written."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException

from worker.web.dependencies import NO_SUCH_REPORT, Month, Reader, Site, api_router
from worker.web.errors import NOT_FOUND
from worker.web.monthly_report import read_report, written_months


def reports_api(site: Site) -> APIRouter:
    """What is in `data_dir/reports`; nothing is computed here."""
    routes = api_router("reports")

    @routes.get("/reports")
    def list_reports(caller: Reader) -> list[str]:
        """Months with a report, the newest first."""
        return written_months(site.data_dir)

    @routes.get("/reports/{month}", responses=NOT_FOUND)
    def show_report(month: Month, caller: Reader) -> dict[str, Any]:
        """Agreement of readers and models, drift and calibration of a month; see docs/retraining.md."""
        report = read_report(site.data_dir, month)
        if report is None:
            raise HTTPException(404, NO_SUCH_REPORT)
        return report

    return routes
