"""GET /api/v1/series/{uid}/fhir and /api/v1/studies/{uid}/fhir: a report as HL7 FHIR R4 resources."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Response
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from worker.audit import events
from worker.db.views.series_detail import find_report
from worker.db.views.studies import find_study_documents
from worker.web.dependencies import NO_SUCH_SERIES, Reader, SeriesUid, Site, StudyUid, api_router
from worker.web.errors import NOT_FOUND
from worker.web.guard import Caller

_MEDIA_TYPE = "application/fhir+json"
_BUNDLE: dict[str, Any] = {"description": "A Bundle", "content": {_MEDIA_TYPE: {"schema": {"type": "object"}}}}


class FhirResponse(Response):
    """FHIR resources in JSON (FHIR R4, 3.1.0.1.9)."""

    media_type = _MEDIA_TYPE


def fhir_api(site: Site) -> APIRouter:
    """The routes; they need a token that reads."""
    routes = api_router("series")

    @routes.get("/series/{series_instance_uid}/fhir", response_class=FhirResponse, responses=NOT_FOUND | {200: _BUNDLE})
    def show_as_fhir(series_instance_uid: SeriesUid, caller: Reader) -> Response:
        """The latest report as DiagnosticReport, Observations and Device. Like the report it has the true patient."""
        with site.database.read() as session:
            report = find_report(session, series_instance_uid)
        if report is None:
            raise HTTPException(404, NO_SUCH_SERIES)
        if report.path is None:
            raise HTTPException(404, "no model has answered this series: there is no report")
        return _show(site, report.path, report.study_instance_uid, caller)

    @routes.get("/studies/{study_instance_uid}/fhir", response_class=FhirResponse, responses=NOT_FOUND | {200: _BUNDLE})
    def show_study_as_fhir(study_instance_uid: StudyUid, caller: Reader) -> Response:
        """The latest report of a study, with an Observation for the study and one for each series."""
        with site.database.read() as session:
            documents = find_study_documents(session, study_instance_uid)
        if documents is None:
            raise HTTPException(404, "no series of such a study was answered")
        if documents.report is None:
            raise HTTPException(404, "there is no report of this study")
        return _show(site, documents.report, study_instance_uid, caller)

    return routes


def _show(site: Site, path: str, study_instance_uid: str, caller: Caller) -> Response:
    """A report, audited. Answers 404 where its file cannot be read."""
    from worker.reporting.fhir_resources import report_as_bundle  # its models are loaded where they are needed

    try:
        bundle = report_as_bundle(dcmread(site.data_dir / path))
    except (OSError, InvalidDicomError, ValueError):
        raise HTTPException(404, "the file of this report is missing from the data folder or unreadable") from None
    site.record(events.viewed(caller.name, caller.address, study_instance_uid))
    return FhirResponse(bundle)
