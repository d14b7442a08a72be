"""Every resource below /dicom-web."""

from __future__ import annotations

from fastapi import APIRouter

from worker.web.dependencies import Site
from worker.web.dicomweb.attributes import AttributeReader
from worker.web.dicomweb.frames import frame_routes
from worker.web.dicomweb.qido import search_routes
from worker.web.dicomweb.resources import DicomwebResources
from worker.web.dicomweb.stow import store_routes
from worker.web.dicomweb.wado import retrieve_routes


def dicomweb_routes(site: Site) -> APIRouter:
    """Search and retrieve for a token that reads, store for a token that operates."""
    routes = APIRouter()
    attributes = AttributeReader(site.data_dir, pseudonymised=site.database.pseudonym is not None)
    resources = DicomwebResources(site)
    routes.include_router(search_routes(site, attributes))
    routes.include_router(retrieve_routes(resources, attributes))
    routes.include_router(frame_routes(resources))
    routes.include_router(store_routes(site))
    return routes
