"""GET /api/v1/series/{uid}/fhir: the report of a series as HL7 FHIR R4 resources."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Response
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from worker.audit import events
from worker.db.views.series_detail import find_report
from worker.web.dependencies import NO_SUCH_SERIES, Reader, SeriesUid, Site, api_router
from worker.web.errors import NOT_FOUND

_MEDIA_TYPE = "application/fhir+json"
_BUNDLE: dict[str, Any] = {"description": "A Bundle", "content": {_MEDIA_TYPE: {"schema": {"type": "object"}}}}


class FhirResponse(Response):
    """FHIR resources in JSON (FHIR R4, 3.1.0.1.9)."""

    media_type = _MEDIA_TYPE


def fhir_api(site: Site) -> APIRouter:
    """The route; it needs a token that reads."""
    routes = api_router("series")

    @routes.get("/series/{series_instance_uid}/fhir", response_class=FhirResponse, responses=NOT_FOUND | {200: _BUNDLE})
    def show_as_fhir(series_instance_uid: SeriesUid, caller: Reader) -> Response:
        """The latest report as DiagnosticReport, Observations and Device. Like the report it holds the true patient."""
        from worker.reporting.fhir_resources import report_as_bundle  # its models are loaded where they are needed

        with site.database.read() as session:
            report = find_report(session, series_instance_uid)
        if report is None:
            raise HTTPException(404, NO_SUCH_SERIES)
        if report.path is None:
            raise HTTPException(404, "no model has answered this series: there is no report")
        try:
            bundle = report_as_bundle(dcmread(site.data_dir / report.path))
        except (OSError, InvalidDicomError, ValueError):
            raise HTTPException(404, "the file of this report is missing from the data folder or unreadable") from None
        site.record(events.viewed(caller.name, caller.address, report.study_instance_uid))
        return FhirResponse(bundle)

    return routes
