"""QIDO-RS: PS3.18 10.6, Search Transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from pydicom import Dataset

from worker.audit import events
from worker.db.engine import Session
from worker.db.views.archive import match_instances, match_series, match_studies
from worker.db.views.archive_dataset import Entry
from worker.dicom.matching import matches
from worker.web.dependencies import DICOMWEB_PREFIX, Reader, Site
from worker.web.dicomweb.attributes import AttributeReader
from worker.web.dicomweb.dicom_json import as_json
from worker.web.dicomweb.messages import dataset_media_type, dataset_response, service_address, uids_of
from worker.web.dicomweb.parameters import InvalidQuery, Level, SearchQuery, default_tags, parse, tags_of_level

RESULTS_AT_MOST = {Level.STUDY: 200, Level.SERIES: 1000, Level.INSTANCE: 2000}  # of a response
HEADERS_AT_MOST = 2000  # that a search may read
WHOLE_BYTES = 8 << 20  # of the JSON of a page whose results have all attributes; a result more than that is begun
_SERVICE = "brain-mri-worker"
_RESOURCES = (
    ("/studies", Level.STUDY),
    ("/series", Level.SERIES),
    ("/instances", Level.INSTANCE),
    ("/studies/{study}/series", Level.SERIES),
    ("/studies/{study}/instances", Level.INSTANCE),
    ("/studies/{study}/series/{series}/instances", Level.INSTANCE),
)


@dataclass(frozen=True, slots=True)
class SearchPage:
    """A page of results in the DICOM JSON Model; `has_more` where results follow."""

    results: list[dict[str, Any]]
    has_more: bool


class TooBroad(Exception):
    """A search would have to read more headers than it may."""


def search_routes(site: Site, attributes: AttributeReader) -> APIRouter:
    """The search resources."""
    routes = APIRouter(prefix=DICOMWEB_PREFIX, include_in_schema=False)
    for path, level in _RESOURCES:
        routes.add_api_route(path, _search(site, attributes, level), methods=["GET"])
    return routes


def _search(site: Site, attributes: AttributeReader, level: Level) -> Callable[..., Any]:
    def search(request: Request, caller: Reader) -> Response:
        media_type = dataset_media_type(request)
        fixed = uids_of(request)
        try:
            query = parse(request.query_params.multi_items(), level, fixed)
        except InvalidQuery as fault:
            raise HTTPException(400, str(fault)) from None
        site.record(events.queried(caller.name, caller.address, request.url.path, query.audited))
        within = Level(len(fixed)) if fixed else None
        tags = None if query.fields is None and level == Level.INSTANCE else _tags(query, within)
        with site.database.read() as session:
            try:
                page = find(session, query, attributes, tags, service_address(request, DICOMWEB_PREFIX))
            except TooBroad:
                raise HTTPException(413, "the search would read too many files; narrow it") from None
        warnings = ", ".join(_warnings(query, page))
        headers = {"Warning": warnings} if warnings else {}
        if not page.results:
            return Response(status_code=204, headers=headers)
        return dataset_response(page.results, media_type, headers=headers)

    return search


def _tags(query: SearchQuery, within: Level | None) -> set[int]:
    supported = tags_of_level(query.level)
    if query.fields is None and supported is not None:
        return supported
    return default_tags(query.level, within) | set(query.fields or ())


def find(
    session: Session, query: SearchQuery, attributes: AttributeReader, tags: set[int] | None, address: str
) -> SearchPage:
    """A page of results. Raises TooBroad."""
    most = RESULTS_AT_MOST[query.level]
    limit = min(most, most if query.limit is None else query.limit)
    if not query.header_keys:
        entries = _entries(session, query, limit + 1, query.offset)
        if tags is None:
            return _whole_page(entries, limit, attributes, address)
        results = [as_json(attributes.read(entry, tags, address), tags) for entry in entries[:limit]]
        return SearchPage(results, len(entries) > limit)
    read = (tags or set()) | {key.tag for key in query.header_keys}
    matched = _matched(session, query, attributes, read, address)
    page = list(islice(matched, query.offset, query.offset + limit + 1))
    if tags is None:
        return _whole_page([entry for entry, _ in page], limit, attributes, address)
    return SearchPage([as_json(ds, tags) for _, ds in page[:limit]], len(page) > limit)


def _whole_page(entries: Sequence[Entry], limit: int, attributes: AttributeReader, address: str) -> SearchPage:
    """A page of results with all attributes; it ends early where these are large."""
    results: list[dict[str, Any]] = []
    size = 0
    for entry in entries[:limit]:
        if size > WHOLE_BYTES:
            return SearchPage(results, True)
        results.append(attributes.read_json(entry, address))
        size += len(json.dumps(results[-1]))
    return SearchPage(results, len(entries) > limit)


def _matched(
    session: Session, query: SearchQuery, attributes: AttributeReader, tags: set[int], address: str
) -> Iterator[tuple[Entry, Dataset]]:
    entries = _entries(session, query, HEADERS_AT_MOST + 1, 0)
    if len(entries) > HEADERS_AT_MOST:
        raise TooBroad
    for entry in entries:
        ds = attributes.read(entry, tags, address)
        if matches(query.header_keys, ds, combined_date_time=True):
            yield entry, ds


def _entries(session: Session, query: SearchQuery, limit: int, offset: int) -> list[Entry]:
    match: Any = {Level.STUDY: match_studies, Level.SERIES: match_series, Level.INSTANCE: match_instances}[query.level]
    return list(match(session, query.keys, limit, offset))


def _warnings(query: SearchQuery, page: SearchPage) -> Iterator[str]:
    if query.fuzzy:  # in the words of PS3.18 8.3.4.2
        text = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
        yield f'299 {_SERVICE} "{text}"'
    if query.has_unsupported:
        yield f'299 {_SERVICE} "Query parameters that are not supported have been ignored"'
    if page.has_more:
        yield f'299 {_SERVICE} "There are additional results that can be requested"'
