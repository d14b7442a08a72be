"""STOW-RS: PS3.18 10.5, Store Transaction. Off until [web] stow allows it; for a token that operates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from pydicom import Dataset
from starlette.concurrency import run_in_threadpool

from worker.config.settings import Settings
from worker.dicom import standard
from worker.web.dependencies import Operator, Site
from worker.web.dicomweb.encoding import as_json
from worker.web.dicomweb.multipart import Malformed, Reader, boundary_of
from worker.web.dicomweb.native_xml import as_xml
from worker.web.dicomweb.negotiation import DICOM, DICOM_XML
from worker.web.dicomweb.qido import address_of, require_told, uids_of
from worker.web.dicomweb.stow_store import Kept, StowRequest, StowStore

_AT_ONCE = 4  # requests, each of which holds an instance in memory


def store_routes(site: Site, prefix: str) -> APIRouter:
    """POST /studies and /studies/{study}."""
    settings = site.settings
    store = StowStore(settings, site.database, site.clock, site.record) if settings.web.stow else None

    @asynccontextmanager
    async def closing_store(_app: FastAPI) -> AsyncIterator[None]:
        yield
        if store is not None:
            store.close()

    routes = APIRouter(prefix=prefix, include_in_schema=False, lifespan=closing_store)
    places = asyncio.Semaphore(_AT_ONCE)
    for path in ("/studies", "/studies/{study}"):
        routes.add_api_route(path, _storing(settings, store, places, prefix), methods=["POST"])
    return routes


def _storing(
    settings: Settings, instances: StowStore | None, places: asyncio.Semaphore, prefix: str
) -> Callable[..., Any]:
    async def store(request: Request, caller: Operator) -> Response:
        if instances is None:
            raise HTTPException(403, "storing over the web is not allowed here: [web] stow")
        told_as = require_told(request, alone=True)
        study = uids_of(request).get("StudyInstanceUID")
        boundary = _boundary(request, settings.web.stow_maximum_bytes)
        if places.locked():
            raise HTTPException(503, "other requests store at the moment", {"Retry-After": "5"})
        async with places:
            taken = instances.begin(caller.name, caller.address)
            reader = Reader(request.stream(), boundary, settings.receive.maximum_dataset_bytes)
            try:
                kept = await _keep_all(reader, taken, study)
            except Malformed as fault:
                raise HTTPException(400, f"{fault}; what came before it is kept") from None
            finally:
                await run_in_threadpool(taken.end)
        if not kept:
            raise HTTPException(400, "the request holds no instance")
        return _answer(kept, address_of(request, prefix), told_as)

    return store


def _boundary(request: Request, most: int) -> str:
    """Answers 413, 415 or 400 before anything is read."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise HTTPException(413, f"a request may have {most} bytes")
    kind = request.headers.get("content-type", "")
    plain = kind.lower().replace('"', "").replace(" ", "")
    if not plain.startswith("multipart/related") or f"type={DICOM};" not in f"{plain};":
        raise HTTPException(415, 'instances come as multipart/related; type="application/dicom"')
    try:
        return boundary_of(kind)
    except Malformed as fault:
        raise HTTPException(400, str(fault)) from None


async def _keep_all(reader: Reader, taken: StowRequest, study: str | None) -> list[Kept]:
    kept = []
    async for headers, content in reader.parts():
        kind = headers.get("content-type", DICOM).partition(";")[0].strip().lower()
        if kind != DICOM:
            kept.append(Kept("", "", "", "", standard.CANNOT_UNDERSTAND))
        elif content is None:
            kept.append(Kept("", "", "", "", standard.OUT_OF_RESOURCES))  # above [receive] maximum_dataset_bytes
        else:
            kept.append(await run_in_threadpool(taken.keep, content, study))
    return kept


def _answer(kept: Sequence[Kept], address: str, told_as: str) -> Response:
    """The Store Instances Response Module: PS3.18 Annex I. Whose UIDs are not known fails in a sequence of its own."""
    answer = Dataset()
    stored = [_reference(one, address) for one in kept if not one.failed]
    failed = [_reference(one, address) for one in kept if one.failed and one.sop_instance_uid and one.sop_class_uid]
    others = [
        _reference(one, address) for one in kept if one.failed and not (one.sop_instance_uid and one.sop_class_uid)
    ]
    studies = {one.study_instance_uid for one in kept if not one.failed}
    if len(studies) == 1:
        answer.RetrieveURL = f"{address}/studies/{studies.pop()}"
    if stored:
        answer.ReferencedSOPSequence = stored
    if failed:
        answer.FailedSOPSequence = failed
    if others:
        answer.OtherFailuresSequence = others
    status = 409 if not stored else 200 if all(one.status == standard.SUCCESS for one in kept) else 202
    told = as_json(answer)
    return Response(as_xml(told) if told_as == DICOM_XML else json.dumps(told), status, media_type=told_as)


def _reference(one: Kept, address: str) -> Dataset:
    item = Dataset()
    if one.sop_class_uid and one.sop_instance_uid:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    if one.failed:
        item.FailureReason = one.status
        return item
    if one.status:
        item.WarningReason = one.status
    place = f"studies/{one.study_instance_uid}/series/{one.series_instance_uid}/instances/{one.sop_instance_uid}"
    item.RetrieveURL = f"{address}/{place}"
    return item
