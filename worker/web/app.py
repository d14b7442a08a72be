"""The web application: pages, REST interface, DICOMweb, health, metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import FastAPI

from worker import __version__
from worker.audit.events import RecordEvent, unrecorded
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.web import errors, guard
from worker.web.api.documentation import documentation_routes
from worker.web.api.fhir import fhir_routes
from worker.web.api.readings import reading_routes
from worker.web.api.reports import report_routes
from worker.web.api.results import api_routes
from worker.web.dependencies import Site
from worker.web.dicomweb.routes import dicomweb_routes
from worker.web.health import health_routes
from worker.web.metrics import metrics_routes
from worker.web.ohif import ohif_routes
from worker.web.pages.images import image_routes
from worker.web.pages.pages import page_routes
from worker.web.sign_in import sign_in_routes
from worker.web.templating import static_routes

_DESCRIPTION = "Results, jobs and deliveries of an AI worker for the PACS. Research use only; not for diagnosis."


def create_app(
    settings: Settings,
    database: Database,
    record: RecordEvent = unrecorded,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FastAPI:
    """Every route of the web role. `record` takes audit events."""
    site = Site(settings, database, record, clock)
    app = FastAPI(
        title="brain-mri-worker", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None
    )
    guard.install(app, settings, database, record, clock)
    errors.install(app)
    app.include_router(sign_in_routes(settings.web.session_hours))
    app.include_router(health_routes(settings, database, clock))
    app.include_router(metrics_routes(settings, database, clock))
    app.include_router(static_routes())
    app.include_router(api_routes(site))
    app.include_router(reading_routes(site))
    app.include_router(fhir_routes(site))
    app.include_router(report_routes(site))
    app.include_router(page_routes(site))
    app.include_router(image_routes(site))
    app.include_router(dicomweb_routes(site))
    app.include_router(ohif_routes(settings.worker.data_dir))
    app.include_router(documentation_routes())
    return app
