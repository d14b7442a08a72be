"""QIDO-RS: PS3.18 10.6, Search Transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydicom import Dataset

from worker.audit import events
from worker.audit.events import RecordEvent
from worker.db.engine import Database
from worker.db.views import archive
from worker.dicom.matching import matches
from worker.dicom.standard import is_uid
from worker.web.dependencies import Reader
from worker.web.dicomweb import multipart, negotiation
from worker.web.dicomweb.encoding import Describer, as_json
from worker.web.dicomweb.native_xml import as_xml
from worker.web.dicomweb.parameters import InvalidQuery, Level, SearchQuery, defaults, of_level, parse

MOST = {Level.STUDY: 200, Level.SERIES: 1000, Level.INSTANCE: 2000}  # answers at once
MOST_READ = 2000  # files whose headers one search may read
_SERVICE = "brain-mri-worker"
_PLACES = (
    ("/studies", Level.STUDY),
    ("/series", Level.SERIES),
    ("/instances", Level.INSTANCE),
    ("/studies/{study}/series", Level.SERIES),
    ("/studies/{study}/instances", Level.INSTANCE),
    ("/studies/{study}/series/{series}/instances", Level.INSTANCE),
)


@dataclass(frozen=True, slots=True)
class Found:
    """`more`: there are answers beyond the page."""

    answers: list[Dataset]
    more: bool


class TooBroad(Exception):
    """A search would have to read more files than one may."""


def search_routes(database: Database, describer: Describer, record: RecordEvent, prefix: str) -> APIRouter:
    """The search resources."""
    routes = APIRouter(prefix=prefix, include_in_schema=False)
    for path, level in _PLACES:
        routes.add_api_route(path, _searching(level, database, describer, record, prefix), methods=["GET"])
    return routes


def _searching(
    level: Level, database: Database, describer: Describer, record: RecordEvent, prefix: str
) -> Callable[..., Any]:
    def search(request: Request, caller: Reader) -> Response:
        told_as = require_told(request)
        fixed = uids_of(request)
        try:
            query = parse(request.query_params.multi_items(), level, fixed)
        except InvalidQuery as fault:
            raise HTTPException(400, str(fault)) from None
        record(events.queried(caller.name, caller.address, request.url.path, query.audited))
        within = Level(len(fixed)) if fixed else None
        tags = None if query.fields is None and level == Level.INSTANCE else _tags(query, within)
        with database.read() as session:
            try:
                found = find(session, query, describer, tags, address_of(request, prefix))
            except TooBroad:
                raise HTTPException(413, "too many files would have to be read: narrow the search") from None
        headers = {"Warning": ", ".join(_warnings(query, found))} if query.fuzzy or found.more else {}
        if not found.answers:
            return Response(status_code=204, headers=headers)
        return told([as_json(ds, tags) for ds in found.answers], told_as, headers=headers)

    return search


def require_told(request: Request, alone: bool = False) -> str:
    """The media type in which the client takes datasets without bulk data: PS3.18 8.7.3.2. Answers 406 for neither.

    XML is for one dataset, which comes `alone`, or else in parts.
    """
    for one in negotiation.ranges(request.headers.get("accept")):
        if one.takes(negotiation.DICOM_JSON) or one.takes("application/json"):
            return negotiation.DICOM_JSON
        if one.in_parts != alone and one.takes(negotiation.DICOM_XML):
            return negotiation.DICOM_XML
    xml = negotiation.DICOM_XML if alone else f'multipart/related; type="{negotiation.DICOM_XML}"'
    raise HTTPException(406, f"this is given as {negotiation.DICOM_JSON} or {xml}")


def told(datasets: Iterable[dict[str, Any]], media_type: str, status: int = 200, **options: Any) -> Response:
    """An answer of datasets, given in the DICOM JSON Model: an array of them, or a part of XML for each."""
    if media_type == negotiation.DICOM_XML:
        boundary = multipart.new_boundary()
        parts = ((media_type, [as_xml(one)]) for one in datasets)
        kind = multipart.content_type(media_type, boundary)
        return StreamingResponse(multipart.written(parts, boundary), status, media_type=kind, **options)
    return StreamingResponse(_array(datasets), status, media_type=media_type, **options)


def _array(datasets: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    mark = "["
    for one in datasets:
        yield (mark + json.dumps(one, allow_nan=False, ensure_ascii=False)).encode()
        mark = ","
    yield b"]"


def address_of(request: Request, prefix: str) -> str:
    """Where this service is, as the client calls it."""
    url, server = request.base_url, request.scope.get("server")
    if server is not None and url.port is None and url.hostname == server[0]:
        url = url.replace(port=server[1])  # dicomweb-client leaves the port out of Host
    return str(url).rstrip("/") + prefix


def uids_of(request: Request) -> dict[str, str]:
    """The UIDs in an address by keyword. Answers 400 for one that is none."""
    names = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
    found = {keyword: request.path_params[name] for name, keyword in names.items() if name in request.path_params}
    if not all(is_uid(uid) for uid in found.values()):
        raise HTTPException(400, "the address names something that is not a UID")
    return found


def _tags(query: SearchQuery, within: Level | None) -> set[int]:
    known = of_level(query.level)
    if query.fields is None and known is not None:
        return known
    return defaults(query.level, within) | set(query.fields or ())


def find(session: Any, query: SearchQuery, describer: Describer, tags: set[int] | None, address: str) -> Found:
    """A page of answers. Raises TooBroad."""
    most = MOST[query.level]
    limit = min(most, most if query.limit is None else query.limit)
    if not query.header_keys:
        entries = _entries(session, query, limit + 1, query.offset)
        answers = [_described(one, describer, tags, address) for one in entries[:limit]]
        return Found(answers, len(entries) > limit)
    read = None if tags is None else tags | {key.tag for key in query.header_keys}
    hits = _hits(session, query, describer, read, address)
    page = [ds for _, ds in zip(range(query.offset + limit + 1), hits, strict=False)][query.offset :]
    return Found(page[:limit], len(page) > limit)


def _hits(
    session: Any, query: SearchQuery, describer: Describer, tags: set[int] | None, address: str
) -> Iterator[Dataset]:
    entries = _entries(session, query, MOST_READ + 1, 0)
    if len(entries) > MOST_READ:
        raise TooBroad
    for one in entries:
        ds = _described(one, describer, tags, address)
        if matches(query.header_keys, ds, combined_date_time=True):
            yield ds


_Entry = archive.Study | archive.Series | archive.Instance


def _entries(session: Any, query: SearchQuery, limit: int, offset: int) -> list[_Entry]:
    find_entries: Any = {
        Level.STUDY: archive.match_studies,
        Level.SERIES: archive.match_series,
        Level.INSTANCE: archive.match_instances,
    }[query.level]
    return list(find_entries(session, query.keys, limit, offset))


def _described(one: _Entry, describer: Describer, tags: set[int] | None, address: str) -> Dataset:
    if isinstance(one, archive.Study):
        return describer.study(one, tags, address)
    if isinstance(one, archive.Series):
        return describer.series(one, tags, address)
    return describer.instance(one, tags, address)


def _warnings(query: SearchQuery, found: Found) -> Iterator[str]:
    if query.fuzzy:
        text = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
        yield f'299 {_SERVICE} "{text}"'
    if found.more:
        yield f'299 {_SERVICE} "There are additional results that can be requested"'
