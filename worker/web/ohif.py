"""The OHIF viewer at /ohif/, where `make ohif` installed it in the data folder; it reads our own /dicom-web.

Its files are public; the images and reports that it shows need a token, or a browser that has signed in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse, RedirectResponse

from worker.web.dependencies import DICOMWEB_PREFIX, Reader

FOLDER = "ohif"  # below the data folder
PREFIX = "/ohif"
_TYPES = {".wasm": "application/wasm", ".webapp": "application/manifest+json", ".mjs": "text/javascript"}


def ohif_routes(data_dir: Path) -> APIRouter:
    """GET /ohif/…: the viewer at the addresses of its pages for MR studies, and its files."""
    routes = APIRouter(include_in_schema=False, prefix=PREFIX)
    folder = data_dir / FOLDER

    @routes.get("")
    def ohif() -> Response:
        return RedirectResponse(f"{PREFIX}/")

    @routes.get("/app-config.js")
    def app_config() -> Response:
        ours = resources.files("worker.web").joinpath("static", "ohif.js").read_text("utf-8")
        return Response(f"window.config = {json.dumps(_config())};\n{ours}", media_type="text/javascript")

    @routes.get("/")
    @routes.get("/viewer")
    @routes.get("/segmentation")
    @routes.get("/notfoundstudy")
    def index(caller: Reader) -> Response:
        try:
            page = (folder / "index.html").read_bytes()
        except OSError:
            raise HTTPException(404, "the OHIF viewer is not installed; run: make ohif") from None
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": _policy(page)})

    @routes.get("/{path:path}")
    def file(path: str) -> Response:
        try:
            target = (folder / path).resolve()
            served = target.is_relative_to(folder.resolve()) and target.is_file() and target.suffix != ".html"
        except (OSError, ValueError):  # a name that no file can have: too long, or with the character NUL
            served = False
        if not served:
            raise HTTPException(404, "the viewer has no such file")
        kind = _TYPES.get(target.suffix) or mimetypes.guess_type(target.name)[0] or "application/octet-stream"
        headers = {"Cache-Control": "private, max-age=86400", "Content-Security-Policy": _policy(b"")}
        return FileResponse(target, media_type=kind, headers=headers)

    return routes


def is_installed(data_dir: Path) -> bool:
    return (data_dir / FOLDER / "index.html").is_file()


def _inline_scripts(page: bytes) -> Iterator[bytes]:
    """What stands between <script> and the next </script>."""
    end = 0
    while (tag := page.find(b"<script>", end)) >= 0:
        begin = tag + len(b"<script>")
        end = page.find(b"</script>", begin)
        if end < 0:
            return
        yield page[begin:end]


def _policy(page: bytes) -> str:
    """The policy of our own pages, relaxed for a viewer that compiles WebAssembly, sets styles and starts workers."""
    inline = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _inline_scripts(page)]
    scripts = " ".join(["'self'", "'wasm-unsafe-eval'", "blob:", *(f"'sha256-{digest}'" for digest in inline)])
    return (
        f"default-src 'none'; script-src {scripts}; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; manifest-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _config() -> dict[str, Any]:
    """The viewer's settings: our own data source alone, so that nothing leaves this host."""
    source = {
        "friendlyName": "AI worker, research use only",
        "name": "worker",
        "qidoRoot": DICOMWEB_PREFIX,
        "wadoRoot": DICOMWEB_PREFIX,
        "wadoUriRoot": DICOMWEB_PREFIX,
        "qidoSupportsIncludeField": True,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "supportsReject": False,
        "bulkDataURI": {"enabled": False},
        "omitQuotationForMultipartRequest": True,
    }
    return {
        "name": "worker",
        "routerBasename": PREFIX,
        "extensions": [],
        "modes": [],
        "customizationService": [
            {"ohif.tours": {"$set": []}},  # no guided tour on top of a study
            {"autoCineModalities": {"$set": []}},  # a heat map is not a cine loop
        ],
        "showStudyList": True,
        "maxNumberOfWebWorkers": 3,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": False,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "investigationalUseDialog": {"option": "always"},
        "defaultDataSourceName": "worker",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "worker",
                "configuration": source,
            }
        ],
    }
