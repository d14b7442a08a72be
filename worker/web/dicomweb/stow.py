"""STOW-RS: PS3.18 10.5, Store Transaction. Disabled unless [web] stow is set; for a token that operates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from worker.config.settings import Settings
from worker.db.tables import AssociationEnd
from worker.web.dependencies import DICOMWEB_PREFIX, Operator, Site
from worker.web.dicomweb.dicom_json import as_json
from worker.web.dicomweb.messages import dataset_media_type, service_address, uids_of
from worker.web.dicomweb.multipart import Malformed, MultipartReader, boundary_of
from worker.web.dicomweb.native_xml import as_xml
from worker.web.dicomweb.negotiation import DICOM, DICOM_XML
from worker.web.dicomweb.stow_request import StowRequest, StowStorage
from worker.web.dicomweb.stow_response import StowResult, http_status, response_dataset

_REQUESTS_AT_ONCE = 64  # each is little while it arrives: see StowStorage.spool
_REQUESTS_OF_A_CALLER = 16
MAXIMUM_PARTS = 10_000  # of a request: what became of each is in the response


def store_routes(site: Site) -> APIRouter:
    """POST /studies and /studies/{study}."""
    settings = site.settings
    storage = StowStorage(settings, site.database, site.clock, site.record) if settings.web.stow else None

    @asynccontextmanager
    async def closing_storage(_app: FastAPI) -> AsyncIterator[None]:
        yield
        if storage is not None:
            storage.close()

    routes = APIRouter(prefix=DICOMWEB_PREFIX, include_in_schema=False, lifespan=closing_storage)
    slots: Counter[str] = Counter()
    for path in ("/studies", "/studies/{study}"):
        routes.add_api_route(path, _store(settings, storage, slots), methods=["POST"])
    return routes


def _store(settings: Settings, storage: StowStorage | None, slots: Counter[str]) -> Callable[..., Any]:
    async def store(request: Request, caller: Operator) -> Response:
        if storage is None:
            raise HTTPException(403, "storing over the web is disabled; set [web] stow = true")
        media_type = dataset_media_type(request, alone=True)
        study = uids_of(request).get("StudyInstanceUID")
        boundary = _boundary(request, settings.web.stow_maximum_bytes)
        with _slot(slots, caller.name):
            stow_request = storage.begin(caller.name, caller.address)
            reader = MultipartReader(request.stream(), boundary)
            end = AssociationEnd.LOST  # a client that disconnects, or is cancelled, raises here
            try:
                results = await _store_all(reader, stow_request, study)
                end = AssociationEnd.RELEASED
            except Malformed as fault:
                end = AssociationEnd.ABORTED
                raise HTTPException(400, f"{fault}; the instances before it are stored") from None
            finally:
                await run_in_threadpool(stow_request.end, end)
        if not results:
            raise HTTPException(400, "the request holds no instance")
        response = as_json(response_dataset(results, service_address(request, DICOMWEB_PREFIX)))
        content = as_xml(response) if media_type == DICOM_XML else json.dumps(response)
        return Response(content, http_status(results), media_type=media_type)

    return store


@contextmanager
def _slot(slots: Counter[str], name: str) -> Iterator[None]:
    """A place among the requests that are stored; all run in the event loop, so nothing comes between these lines."""
    if slots.total() >= _REQUESTS_AT_ONCE or slots[name] >= _REQUESTS_OF_A_CALLER:
        raise HTTPException(503, "other requests are being stored; try again later", {"Retry-After": "5"})
    slots[name] += 1
    try:
        yield
    finally:
        slots[name] -= 1
        if not slots[name]:
            del slots[name]


def _boundary(request: Request, most: int) -> str:
    """The boundary of the parts. Answers 413, 415 or 400 before anything is read."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise HTTPException(413, f"the request exceeds {most} bytes ([web] stow_maximum_bytes)")
    kind = request.headers.get("content-type", "")
    plain = kind.lower().replace('"', "").replace(" ", "")
    if not plain.startswith("multipart/related") or f"type={DICOM};" not in f"{plain};":
        raise HTTPException(415, 'send instances as multipart/related; type="application/dicom"')
    try:
        return boundary_of(kind)
    except Malformed as fault:
        raise HTTPException(400, str(fault)) from None


async def _store_all(reader: MultipartReader, stow_request: StowRequest, study: str | None) -> list[StowResult]:
    results: list[StowResult] = []
    while (headers := await reader.next_part()) is not None:
        if len(results) >= MAXIMUM_PARTS:
            raise HTTPException(413, f"the request has over {MAXIMUM_PARTS} parts; the instances before it are stored")
        part = stow_request.new_part()
        try:
            await reader.read(part.append)
            media_type = headers.get("content-type", DICOM).partition(";")[0].strip().lower()
            results.append(await part.store(study, media_type))
        finally:
            part.close()
    return results
