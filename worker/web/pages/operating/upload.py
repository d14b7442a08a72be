"""GET /upload: files, a folder or ZIP archives, which the browser unpacks and stores by STOW-RS."""

from __future__ import annotations

from fastapi import APIRouter, Response

from worker.web.dependencies import Operator, Site
from worker.web.pages.layout import render_page


def upload_page(site: Site) -> APIRouter:
    """The page; it needs a token that operates, and so does STOW-RS, which has the limits."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/upload")
    def upload(caller: Operator) -> Response:
        web = site.settings.web
        return render_page(
            site, "upload.html", caller, enabled=web.stow, most=web.stow_maximum_bytes,
            largest=site.settings.receive.maximum_dataset_bytes,
        )  # fmt: skip

    return routes
