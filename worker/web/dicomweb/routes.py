"""Every resource below /dicom-web."""

from __future__ import annotations

from fastapi import APIRouter

from worker.web.dependencies import DICOMWEB_PREFIX, Site
from worker.web.dicomweb.encoding import Describer
from worker.web.dicomweb.frames import frame_routes
from worker.web.dicomweb.qido import search_routes
from worker.web.dicomweb.resources import Archive
from worker.web.dicomweb.stow import store_routes
from worker.web.dicomweb.wado import retrieve_routes


def dicomweb_routes(site: Site) -> APIRouter:
    """Search and retrieve for a token that reads, store for one that operates."""
    routes = APIRouter()
    describer = Describer(site.data_dir, pseudonymised=site.database.pseudonym is not None)
    archive = Archive(site)
    routes.include_router(search_routes(site.database, describer, site.record, DICOMWEB_PREFIX))
    routes.include_router(retrieve_routes(archive, describer, DICOMWEB_PREFIX))
    routes.include_router(frame_routes(archive, DICOMWEB_PREFIX))
    routes.include_router(store_routes(site, DICOMWEB_PREFIX))
    return routes
