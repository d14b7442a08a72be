"""WADO-RS: whole instances, metadata and bulk data. PS3.18 10.4, Retrieve Transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from worker.db.views.archive import Instance
from worker.errors import NotAssessable
from worker.logs import get_log
from worker.pixels import frames
from worker.web.dependencies import Reader
from worker.web.dicomweb import multipart, negotiation
from worker.web.dicomweb.encoding import Describer, as_json, bulk_value, instance_address
from worker.web.dicomweb.negotiation import DICOM, OCTETS, Range
from worker.web.dicomweb.qido import address_of, require_told, told
from worker.web.dicomweb.resources import Archive

_PIECE = 1 << 18
_PIXELS = "7FE00010"
_STUDY, _SERIES = "/studies/{study}", "/studies/{study}/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"


def retrieve_routes(archive: Archive, describer: Describer, prefix: str) -> APIRouter:
    """Instances, /metadata and /bulkdata."""
    routes = APIRouter(prefix=prefix, include_in_schema=False)
    for place in (_STUDY, _SERIES, _INSTANCE):
        routes.add_api_route(place, _retrieving(archive, alone=place == _INSTANCE), methods=["GET"])
        routes.add_api_route(f"{place}/metadata", _telling(archive, describer, prefix), methods=["GET"])
    routes.add_api_route(_INSTANCE + "/bulkdata/{path:path}", _bulk(archive, describer), methods=["GET"])
    return routes


def _retrieving(archive: Archive, alone: bool) -> Callable[..., Any]:
    def retrieve(request: Request, caller: Reader) -> Response:
        wanted = [one for one in negotiation.ranges(request.headers.get("accept")) if one.takes(DICOM)]
        named = archive.named(request)
        if archive.database.pseudonym is not None:
            # The files name the patient, whom this database must not.
            raise HTTPException(403, "with [privacy] pseudonymise whole instances are not given out, only their images")
        given = [(one, syntax) for one in named.instances if (syntax := _syntax(one, wanted)) is not None]
        if not given:
            raise HTTPException(406, "instances are given as application/dicom, as they were sent or decompressed")
        contents = [_content(archive, one, syntax) for one, syntax in given]
        if alone:
            contents = [begun(contents[0])]
        archive.retrieved(caller, tuple(one for one, _ in given))
        if alone and not any(one.in_parts or one.type == "*/*" for one in wanted):
            return StreamingResponse(contents[0], media_type=f"{DICOM}; transfer-syntax={given[0][1]}")
        boundary = multipart.new_boundary()
        types = [f"{DICOM}; transfer-syntax={syntax}" for _, syntax in given]
        parts = zip(types, contents, strict=True)
        status = 206 if len(given) < len(named.instances) else named.status
        return StreamingResponse(
            multipart.written(parts, boundary), status, media_type=multipart.content_type(DICOM, boundary)
        )

    return retrieve


def _syntax(one: Instance, wanted: list[Range]) -> str | None:
    """The transfer syntax to give an instance in, None where the client takes no one that we can give.

    Without a word about it that is Explicit VR Little Endian: PS3.18 8.7.3.5.2.
    """
    for each in wanted:
        asked = each.transfer_syntax or ExplicitVRLittleEndian
        if asked in ("*", one.transfer_syntax_uid):
            return one.transfer_syntax_uid
        if asked == ExplicitVRLittleEndian:
            return str(ExplicitVRLittleEndian)
    return None


def begun(content: Iterator[bytes]) -> Iterator[bytes]:
    """The same, of which the first piece is there: what cannot be decompressed is told by the status."""
    try:
        first = next(content)
    except NotAssessable as fault:
        raise HTTPException(406, fault.detail) from None
    return chain([first], content)


def _content(archive: Archive, one: Instance, syntax: str) -> Iterator[bytes]:
    if syntax == one.transfer_syntax_uid:
        return _pieces(archive.file(one))
    return _decompressed(archive, one)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece


def _decompressed(archive: Archive, one: Instance) -> Iterator[bytes]:
    """Made when its turn comes; where it cannot be, the answer breaks off rather than to hold half an instance."""
    try:
        yield frames.explicit_little_endian(archive.file(one))
    except NotAssessable as fault:
        get_log().warning("instance not decompressed", reason=fault.reason)
        raise


def _telling(archive: Archive, describer: Describer, prefix: str) -> Callable[..., Any]:
    def metadata(request: Request, caller: Reader) -> Response:
        told_as = require_told(request)
        named = archive.named(request)
        archive.viewed(caller, named.instances[0])
        address = address_of(request, prefix)
        return told(_metadata(named.instances, describer, address), told_as, named.status)

    return metadata


def _metadata(instances: Iterable[Instance], describer: Describer, address: str) -> Iterator[dict[str, Any]]:
    for one in instances:
        bulk = f"{instance_address(one, address)}/bulkdata"
        tags = as_json(describer.instance(one, None, address), None, bulk)
        if "00280010" in tags:
            tags[_PIXELS] = {"vr": "OW", "BulkDataURI": f"{bulk}/{_PIXELS}"}
        yield tags


def _bulk(archive: Archive, describer: Describer) -> Callable[..., Any]:
    def bulkdata(request: Request, path: str, caller: Reader) -> Response:
        wanted = [one for one in negotiation.ranges(request.headers.get("accept")) if one.takes(OCTETS)]
        one = archive.one(request)
        if not wanted:
            raise HTTPException(406, "bulk data are given as application/octet-stream")
        pieces = _pixels(archive, one) if path == _PIXELS else _value(describer.instance(one, None, ""), path)
        archive.viewed(caller, one)
        if not any(each.in_parts or each.type == "*/*" for each in wanted):
            return StreamingResponse(pieces, media_type=OCTETS)
        boundary = multipart.new_boundary()
        return StreamingResponse(
            multipart.written([(OCTETS, pieces)], boundary), media_type=multipart.content_type(OCTETS, boundary)
        )

    return bulkdata


def _pixels(archive: Archive, one: Instance) -> Iterable[bytes]:
    try:
        image = frames.open_file(archive.file(one))
    except NotAssessable as fault:
        raise HTTPException(404, fault.detail) from None
    return begun(image.native_frames(range(1, image.frames + 1)))


def _value(ds: Dataset, path: str) -> list[bytes]:
    value = bulk_value(ds, path.split("/"))
    if value is None:
        raise HTTPException(404, "the instance has no such value")
    return [value]
