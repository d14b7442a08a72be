"""The web application: health now; the page and the REST interface come with it later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import FastAPI

from worker import __version__, store
from worker.audit.events import Record, unrecorded
from worker.config import Settings
from worker.query import guard
from worker.query.health import health_routes
from worker.query.sign_in import sign_in_routes


def create_app(
    settings: Settings,
    database: store.Store,
    record: Record = unrecorded,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FastAPI:
    """Every route of the web role. `record` takes audit events."""
    app = FastAPI(title="brain-mri-worker", version=__version__, docs_url=None, redoc_url=None)
    guard.install(app, settings, database, record, clock)
    app.include_router(sign_in_routes(settings.web.session_hours))
    app.include_router(health_routes(settings, database, clock))
    return app
