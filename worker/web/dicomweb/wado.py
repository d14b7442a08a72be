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
from worker.decoding import tasks
from worker.logs import get_log
from worker.web.dependencies import DICOMWEB_PREFIX, Reader
from worker.web.dicomweb import negotiation
from worker.web.dicomweb.attributes import AttributeReader
from worker.web.dicomweb.dicom_json import bulk_value
from worker.web.dicomweb.messages import (
    dataset_media_type,
    dataset_response,
    entry_address,
    multipart_response,
    service_address,
)
from worker.web.dicomweb.negotiation import DICOM, OCTETS, MediaRange
from worker.web.dicomweb.resources import DicomwebResources
from worker.web.guard import Caller

_PIECE_BYTES = 1 << 18
_PIXEL_DATA = "7FE00010"
_STUDY, _SERIES = "/studies/{study}", "/studies/{study}/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"


def retrieve_routes(resources: DicomwebResources, attributes: AttributeReader) -> APIRouter:
    """Instances, /metadata and /bulkdata."""
    routes = APIRouter(prefix=DICOMWEB_PREFIX, include_in_schema=False)
    for path in (_STUDY, _SERIES, _INSTANCE):
        routes.add_api_route(path, _retrieve(resources, alone=path == _INSTANCE), methods=["GET"])
        routes.add_api_route(f"{path}/metadata", _retrieve_metadata(resources, attributes), methods=["GET"])
    routes.add_api_route(_INSTANCE + "/bulkdata/{path:path}", _retrieve_bulk(resources, attributes), methods=["GET"])
    return routes


def _retrieve(resources: DicomwebResources, alone: bool) -> Callable[..., Any]:
    def retrieve(request: Request, caller: Reader) -> Response:
        ranges = [accepted for accepted in negotiation.accepted_by(request) if accepted.includes(DICOM)]
        selection = resources.select(request)
        if resources.database.pseudonym is not None:
            # The files identify the patient, which this database must not.
            raise HTTPException(403, "with [privacy] pseudonymise only images and metadata are available, no instances")
        chosen = [
            (instance, syntax)
            for instance in selection.instances
            if (syntax := _transfer_syntax(instance, ranges)) is not None
        ]
        if not chosen:
            raise HTTPException(406, "instances are available as application/dicom, as stored or decompressed")
        # Before the first byte: the status tells that something is left out.
        chosen = [(instance, syntax) for instance, syntax in chosen if resources.is_whole(instance)]
        if not chosen:
            raise HTTPException(410, "the stored files are damaged")
        contents = [_content(resources, instance, syntax, caller) for instance, syntax in chosen]
        if alone:
            contents = [_start(contents[0])]
        resources.record_retrieved(caller, tuple(instance for instance, _ in chosen))
        types = [f"{DICOM}; transfer-syntax={syntax}" for _, syntax in chosen]
        if alone and not any(accepted.is_multipart or accepted.type == "*/*" for accepted in ranges):
            return StreamingResponse(contents[0], media_type=types[0])
        status = 206 if len(chosen) < len(selection.instances) else selection.status
        return multipart_response(zip(types, contents, strict=True), DICOM, status)

    return retrieve


def _transfer_syntax(instance: Instance, ranges: list[MediaRange]) -> str | None:
    """The transfer syntax in which an instance is sent, None where the client accepts none that is available.

    Explicit VR Little Endian is the default: PS3.18 8.7.3.5.2.
    """
    for media_range in ranges:
        syntax = media_range.transfer_syntax or ExplicitVRLittleEndian
        if syntax in ("*", instance.transfer_syntax_uid):
            return instance.transfer_syntax_uid
        if syntax == ExplicitVRLittleEndian:
            return str(ExplicitVRLittleEndian)
    return None


def _start(content: Iterator[bytes]) -> Iterator[bytes]:
    """The same content, its first piece made already: a fault of decompression becomes the status."""
    first = next(content, b"")
    return chain([first], content)


def _content(resources: DicomwebResources, instance: Instance, syntax: str, caller: Caller) -> Iterator[bytes]:
    if syntax == instance.transfer_syntax_uid:
        return _pieces(resources.file(instance))
    return _decompressed(resources, instance, caller)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def _decompressed(resources: DicomwebResources, instance: Instance, caller: Caller) -> Iterator[bytes]:
    """Decompress when its turn comes; on a failure the response breaks off rather than hold half an instance."""
    try:
        answer = resources.decoded(tasks.explicit_little_endian(resources.file(instance)), caller)
    except HTTPException as fault:
        get_log().warning("instance not decompressed", status=fault.status_code)
        raise
    yield from answer.whole()


def _retrieve_metadata(resources: DicomwebResources, attributes: AttributeReader) -> Callable[..., Any]:
    def metadata(request: Request, caller: Reader) -> Response:
        media_type = dataset_media_type(request)
        selection = resources.select(request)
        resources.record_viewed(caller, selection.instances[0])
        address = service_address(request, DICOMWEB_PREFIX)
        return dataset_response(_metadata(selection.instances, attributes, address), media_type, selection.status)

    return metadata


def _metadata(instances: Iterable[Instance], attributes: AttributeReader, address: str) -> Iterator[dict[str, Any]]:
    for instance in instances:
        bulk = f"{entry_address(instance, address)}/bulkdata"
        dataset = attributes.read_json(instance, address, bulk)
        if "00280010" in dataset:  # Rows: it is an image
            dataset[_PIXEL_DATA] = {"vr": "OW", "BulkDataURI": f"{bulk}/{_PIXEL_DATA}"}
        yield dataset


def _retrieve_bulk(resources: DicomwebResources, attributes: AttributeReader) -> Callable[..., Any]:
    def bulkdata(request: Request, path: str, caller: Reader) -> Response:
        ranges = [accepted for accepted in negotiation.accepted_by(request) if accepted.includes(OCTETS)]
        instance = resources.instance(request)
        if not ranges:
            raise HTTPException(406, "bulk data are available as application/octet-stream")
        if path == _PIXEL_DATA:
            pieces = _pixels(resources, instance, caller)
        else:
            pieces = _value(attributes.read(instance, None, ""), path)
        resources.record_viewed(caller, instance)
        if not any(accepted.is_multipart or accepted.type == "*/*" for accepted in ranges):
            return StreamingResponse(pieces, media_type=OCTETS)
        return multipart_response([(OCTETS, pieces)], OCTETS)

    return bulkdata


def _pixels(resources: DicomwebResources, instance: Instance, caller: Caller) -> Iterable[bytes]:
    return resources.decoded(tasks.native_frames(resources.file(instance)), caller).whole()


def _value(ds: Dataset, path: str) -> list[bytes]:
    value = bulk_value(ds, path.split("/"))
    if value is None:
        raise HTTPException(404, "the instance has no such value")
    return [value]
