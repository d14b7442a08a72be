"""What requests name and accept, and how datasets are sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import HTTPException, Request
from fastapi.responses import StreamingResponse

from worker.db.views.archive import Instance, Series, Study
from worker.web.dicomweb.messages import (
    dataset_media_type,
    dataset_response,
    entry_address,
    service_address,
    uids_of,
)

JSON, XML = "application/dicom+json", "application/dicom+xml"
DATASETS = [{"00100020": {"vr": "LO", "Value": [name]}} for name in ("a", "ä")]


def request(accept: str | None = None, host: str = "server:8080", **path: str) -> Request:
    headers = [(b"host", host.encode())] + ([(b"accept", accept.encode())] if accept is not None else [])
    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "server": ("127.0.0.1", 8042)}
    return Request({**scope, "headers": headers, "path_params": path, "query_string": b"", "root_path": ""})


def content(response: Any) -> bytes:
    async def collect() -> bytes:
        return b"".join([piece if isinstance(piece, bytes) else bytes(piece) async for piece in response.body_iterator])

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("accept", "alone", "expected"),
    [
        (None, False, JSON),
        ("*/*", False, JSON),
        ("application/json", False, JSON),
        (f'multipart/related; type="{XML}"', False, XML),
        (XML, False, None),
        (XML, True, XML),
        (f'multipart/related; type="{XML}"', True, None),
        (f"{XML}; q=0.1, {JSON}", True, JSON),
        ("text/html", False, None),
    ],
)
def test_a_dataset_is_sent_as_json_or_xml(accept: str | None, alone: bool, expected: str | None) -> None:
    if expected is not None:
        assert dataset_media_type(request(accept), alone) == expected
        return
    with pytest.raises(HTTPException) as refused:
        dataset_media_type(request(accept), alone)
    assert refused.value.status_code == 406


def test_datasets_are_an_array_of_json_or_parts_of_xml() -> None:
    assert json.loads(content(dataset_response(DATASETS, JSON))) == DATASETS
    assert json.loads(content(dataset_response([], JSON))) == []
    response = dataset_response(DATASETS, XML, 206)
    assert isinstance(response, StreamingResponse)
    assert response.status_code == 206
    boundary = response.headers["content-type"].partition("boundary=")[2]
    parts = content(response).split(f"--{boundary}".encode())
    assert [XML.encode() in part for part in parts] == [False, True, True, False]


def test_the_uids_of_an_address_are_uids() -> None:
    assert uids_of(request(study="1.2", series="1.3")) == {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"}
    with pytest.raises(HTTPException) as refused:
        uids_of(request(study="../x"))
    assert refused.value.status_code == 400


def test_the_service_is_where_the_client_calls_it() -> None:
    assert service_address(request(), "/dicom-web") == "http://server:8080/dicom-web"
    # dicomweb-client names no port.
    assert service_address(request(host="127.0.0.1"), "/dicom-web") == "http://127.0.0.1:8042/dicom-web"


def test_an_entry_is_retrieved_from_its_level() -> None:
    study = Study("1.2", "", "", "", "", (), 1, 1, None)
    series = Series(study, "1.3", "MR", "", None, 1, None)
    instance = Instance("1.2", "1.3", "1.4", "", "", "MR", "", "", "", "", None, None)
    assert entry_address(study, "x") == "x/studies/1.2"
    assert entry_address(series, "x") == "x/studies/1.2/series/1.3"
    assert entry_address(instance, "x") == "x/studies/1.2/series/1.3/instances/1.4"
