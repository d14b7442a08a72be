"""Every resource below /dicom-web."""

from __future__ import annotations

from fastapi import APIRouter

from worker.audit.events import Record
from worker.db.engine import Database
from worker.web.dicomweb.encoding import Describer
from worker.web.dicomweb.frames import frame_routes
from worker.web.dicomweb.qido import search_routes
from worker.web.dicomweb.resources import Archive
from worker.web.dicomweb.stow import store_routes
from worker.web.dicomweb.wado import retrieve_routes
from worker.web.parts import Parts

PREFIX = "/dicom-web"


def dicomweb_routes(database: Database, parts: Parts, record: Record) -> APIRouter:
    """Search and retrieve for a token that reads, store for one that operates."""
    routes = APIRouter()
    describer = Describer(parts.settings.worker.data_dir, pseudonymised=database.pseudonym is not None)
    archive = Archive(database, parts, record)
    routes.include_router(search_routes(database, describer, record, PREFIX))
    routes.include_router(retrieve_routes(archive, describer, PREFIX))
    routes.include_router(frame_routes(archive, PREFIX))
    routes.include_router(store_routes(parts.settings, parts.intake, PREFIX))
    return routes
