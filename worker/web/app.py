"""The web application: pages, REST interface, DICOMweb, health, metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from fastapi import Depends, FastAPI

from worker import __version__
from worker.audit.events import RecordEvent, unrecorded
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.web import errors, guard
from worker.web.api.conflicts import conflicts_api
from worker.web.api.deliveries import deliveries_api
from worker.web.api.destinations import destinations_api
from worker.web.api.fhir import fhir_api
from worker.web.api.hand_overs import hand_overs_api
from worker.web.api.jobs import jobs_api
from worker.web.api.models import models_api
from worker.web.api.readings import readings_api
from worker.web.api.reports import reports_api
from worker.web.api.series import series_api
from worker.web.api.studies import studies_api
from worker.web.api.suspensions import suspensions_api
from worker.web.dependencies import API_PREFIX, DICOMWEB_PREFIX, Site, refuse_repeated_parameters
from worker.web.dicomweb.routes import dicomweb_routes
from worker.web.health import health_routes
from worker.web.limits.head import HeadAsGet
from worker.web.limits.origins import AllowedOrigins
from worker.web.metrics import metrics_routes
from worker.web.ohif import ohif_routes
from worker.web.pages.activity import activity_page
from worker.web.pages.api_reference import api_reference_page
from worker.web.pages.images import series_images, study_images
from worker.web.pages.models import models_page
from worker.web.pages.operating.audit_trail import audit_trail_page
from worker.web.pages.operating.deletion import deletion_form
from worker.web.pages.operating.deliveries import deliveries_page
from worker.web.pages.operating.fetch import fetch_page
from worker.web.pages.operating.hand_over import hand_over_pages
from worker.web.pages.operating.tags import tags_page
from worker.web.pages.operating.tokens import tokens_page
from worker.web.pages.operating.upload import upload_page
from worker.web.pages.peers import peers_page
from worker.web.pages.queue import queue_page
from worker.web.pages.reading_form import reading_form
from worker.web.pages.reports import reports_page
from worker.web.pages.series import series_page
from worker.web.pages.study import study_page
from worker.web.pages.worklist import worklist_page
from worker.web.sign_in import sign_in_routes
from worker.web.templating import static_routes
from worker.web.work.hand_overs import HandOvers

_DESCRIPTION = "Results, jobs and deliveries of an AI worker for the PACS. Research use only; not for diagnosis."


def create_app(
    settings: Settings,
    database: Database,
    record: RecordEvent = unrecorded,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FastAPI:
    """Every route of the web role. `record` takes audit events."""
    site = Site(settings, database, record, clock)

    @asynccontextmanager
    async def ending_decoders(_app: FastAPI) -> AsyncIterator[None]:
        yield
        site.decoders.close()

    app = FastAPI(
        title="brain-mri-worker",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=ending_decoders,
    )
    app.add_middleware(HeadAsGet)
    if settings.web.cors_origins:
        prefixes = (API_PREFIX, DICOMWEB_PREFIX)
        app.add_middleware(AllowedOrigins, origins=settings.web.cors_origins, prefixes=prefixes)
    guard.install(app, settings, database, record, clock)
    errors.install(app)
    app.include_router(sign_in_routes(settings.web.session_hours))
    app.include_router(health_routes(settings, database, clock))
    app.include_router(metrics_routes(settings, database, clock, site.decoders.deaths))
    app.include_router(static_routes())
    once = [Depends(refuse_repeated_parameters)]
    for resource in (
        studies_api,
        series_api,
        readings_api,
        fhir_api,
        jobs_api,
        conflicts_api,
        deliveries_api,
        models_api,
        destinations_api,
        reports_api,
        suspensions_api,
    ):
        app.include_router(resource(site), dependencies=once)
    for page in (
        worklist_page,
        study_page,
        series_page,
        series_images,
        study_images,
        reading_form,
        queue_page,
        peers_page,
        models_page,
        activity_page,
        reports_page,
        deliveries_page,
        deletion_form,
        upload_page,
        fetch_page,
        tokens_page,
        tags_page,
        audit_trail_page,
    ):
        app.include_router(page(site), dependencies=once)
    hand_overs = HandOvers(site)
    app.include_router(hand_overs_api(hand_overs), dependencies=once)
    app.include_router(hand_over_pages(site, hand_overs), dependencies=once)
    app.include_router(dicomweb_routes(site))
    app.include_router(ohif_routes(settings.worker.data_dir))
    app.include_router(api_reference_page())
    return app
