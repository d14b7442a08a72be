"""What the resources share: the UIDs and addresses of requests, and datasets as JSON or XML in responses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from worker.db.views.archive import Instance, Series, Study
from worker.db.views.archive_dataset import Entry
from worker.dicom.standard import is_uid
from worker.web.dicomweb import multipart, negotiation
from worker.web.dicomweb.native_xml import as_xml

_UIDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}


def uids_of(request: Request) -> dict[str, str]:
    """The UIDs in the address of a request, by keyword. Answers 400 for what is not a UID."""
    parameters = request.path_params
    uids = {keyword: parameters[name] for name, keyword in _UIDS.items() if name in parameters}
    if not all(is_uid(uid) for uid in uids.values()):
        raise HTTPException(400, "the address contains something that is not a UID")
    return uids


def service_address(request: Request, prefix: str) -> str:
    """The address of this service, as the client calls it."""
    url, server = request.base_url, request.scope.get("server")
    if server is not None and url.port is None and url.hostname == server[0]:
        url = url.replace(port=server[1])  # dicomweb-client leaves the port out of Host
    return str(url).rstrip("/") + prefix


def entry_address(entry: Entry, address: str) -> str:
    """The address to retrieve a study, a series or an instance from. `address`: of this service."""
    study = entry.study if isinstance(entry, Series) else entry
    address = f"{address}/studies/{study.study_instance_uid}"
    if not isinstance(entry, Study):
        address += f"/series/{entry.series_instance_uid}"
    return f"{address}/instances/{entry.sop_instance_uid}" if isinstance(entry, Instance) else address


def dataset_media_type(request: Request, alone: bool = False) -> str:
    """The media type in which the client accepts datasets without bulk data: PS3.18 8.7.3.2. Answers 406 for neither.

    XML is for a single dataset, which is sent `alone`, or for parts with a dataset each.
    """
    for media_range in negotiation.accepted_by(request):
        if media_range.includes(negotiation.DICOM_JSON) or media_range.includes("application/json"):
            return negotiation.DICOM_JSON
        if media_range.is_multipart != alone and media_range.includes(negotiation.DICOM_XML):
            return negotiation.DICOM_XML
    xml = negotiation.DICOM_XML if alone else f'multipart/related; type="{negotiation.DICOM_XML}"'
    raise HTTPException(406, f"this is available as {negotiation.DICOM_JSON} or {xml}")


def dataset_response(
    datasets: Iterable[dict[str, Any]], media_type: str, status: int = 200, **options: Any
) -> Response:
    """A response of datasets, given in the DICOM JSON Model: an array, or a part of XML for each."""
    if media_type == negotiation.DICOM_XML:
        parts = ((media_type, [as_xml(dataset)]) for dataset in datasets)
        return multipart_response(parts, media_type, status, **options)
    return StreamingResponse(_array(datasets), status, media_type=media_type, **options)


def multipart_response(
    parts: Iterable[tuple[str, Iterable[bytes]]], media_type: str, status: int = 200, **options: Any
) -> StreamingResponse:
    """A multipart/related response of parts of a media type; each part its Content-Type and its content in pieces."""
    boundary = multipart.new_boundary()
    content_type = multipart.content_type(media_type, boundary)
    return StreamingResponse(multipart.encode(parts, boundary), status, media_type=content_type, **options)


def _array(datasets: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    separator = "["
    for dataset in datasets:
        yield (separator + json.dumps(dataset, allow_nan=False, ensure_ascii=False)).encode()
        separator = ","
    yield b"]" if separator == "," else b"[]"
