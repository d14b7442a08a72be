"""The web application: health now; the page and the REST interface come with it later."""

from __future__ import annotations

from fastapi import FastAPI

from worker import __version__, store
from worker.config import Settings
from worker.query.health import health_routes


def create_app(settings: Settings, database: store.Store) -> FastAPI:
    """Every route of the web role."""
    app = FastAPI(title="brain-mri-worker", version=__version__, docs_url=None, redoc_url=None)
    app.include_router(health_routes(settings, database))
    return app
