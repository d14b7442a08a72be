"""The rows of instances that have most of their header in common, as the slices of a series have: it is read once.

Reading a header was half of what receiving an instance took. Now its bytes are compared with those of the header that
came before it over the association, but for a few gaps. Where other bytes differ its elements are walked and compared
with those of any earlier instance. Either way the row is that of the earlier instance, but for what tells slices apart.
A header that is long, has many elements or is of an unusual kind is read anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian

from worker.config import routing
from worker.db.instances import NewInstance
from worker.dicom import functional_groups, standard
from worker.dicom.header import EncodedElement, element_places, encoded_elements
from worker.dicom.odd_values import ignore_value_warnings
from worker.dicom.walk import UNDEFINED
from worker.storage.acceptance import (
    SLICE_KEYS,
    STORED_TAGS,
    StoreRequest,
    instance_path,
    read_instance,
    sha256_of,
    slice_attributes,
    uid_of,
)
from worker.storage.spool import FileContent

_SHARED_BYTES = 1 << 13  # of the values of a header; those of a slice take less than 2 KiB
_ROWS = _ASSOCIATIONS = 64  # the shape of each takes up to 400 kB
_LESSONS = 8  # shapes that are made for the headers of a row
_SHAPED_BYTES, _SHAPED_ELEMENTS = 1 << 17, 1 << 11  # of a header, with its private elements
_GAP_BYTES = 256  # of a value that tells slices apart, and of one of the file meta information
_META_BYTES = (1 << 11) - 12  # what `dicom.header` reads at once of meta information, less the next element's beginning
# What differs between the slices of a series, and of the rest what `slice_attributes` reads.
_OWN = frozenset(int(Tag(keyword)) for keyword in ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient"))
_OF_SLICE = _OWN | {
    int(Tag(keyword)) for keyword in ("ImageOrientationPatient", "SpacingBetweenSlices", "SliceThickness")
}

_Key = tuple[str, tuple[EncodedElement, ...]]


class HeaderReader:
    """Reads rows as `read_instance` does; any number of threads may use it."""

    def __init__(self, routes: Sequence[routing.RouteSection], pseudonym: Callable[[str], str] | None) -> None:
        self._routes = routes
        self._pseudonym = pseudonym
        groups = (functional_groups.SHARED, functional_groups.PER_FRAME)
        self._keywords = (*STORED_TAGS, *routing.keywords(routes), *groups)
        self._own = _OWN - {int(Tag(keyword)) for keyword in routing.keywords(routes)}
        self._known: dict[_Key, _Known] = {}
        self._last: dict[int | None, _Known] = {}  # by association

    def read(self, request: StoreRequest) -> NewInstance:
        """The row of a request's instance. Raises RefusedInstance, as `read_instance`."""
        content, syntax = request.encoded, request.transfer_syntax_uid
        if isinstance(content, FileContent):
            return self._parse(request)
        last = self._last.get(request.association_id)
        if last is not None and last.shape is not None and last.syntax == syntax:
            own = last.shape.own_elements(content)
            row = last.row_like(request, own) if own is not None else None
            if row is not None:
                return row
        found = encoded_elements(content, syntax, self._keywords, _SHARED_BYTES)
        if found is None:
            return self._parse(request)
        own = [element for element in found if element.tag in self._own]
        key = (syntax, tuple(element for element in found if element.tag not in self._own))
        known = self._known.get(key)
        row = known.row_like(request, own) if known is not None else None
        if known is None or row is None:
            row = self._parse(request)
            if len(self._known) >= _ROWS:
                self._known.clear()
            self._known[key] = known = _Known(row, syntax, _raw(key[1], syntax))
        if last is known or known.shape is None:
            known.learn(content, found, self._own)
        if len(self._last) >= _ASSOCIATIONS:
            self._last.clear()
        self._last[request.association_id] = known
        return row

    def _parse(self, request: StoreRequest) -> NewInstance:
        return read_instance(request, instance_path, self._routes, self._pseudonym)


@dataclass(slots=True, eq=False)
class _Known:
    """The row of an earlier instance, those of its elements that describe a slice and are shared, and its shape."""

    row: NewInstance
    syntax: str
    common: Mapping[int, RawDataElement] | None
    shape: _Shape | None = None
    lessons: int = 0

    def row_like(self, request: StoreRequest, own: Sequence[EncodedElement]) -> NewInstance | None:
        """The row of an instance whose elements are the same but for `own`; None for what is to be refused."""
        raw = _raw(own, self.syntax)
        if raw is None or self.common is None:
            return None
        ds: Any = _RawElements({**self.common, **raw})
        uid, attributes = uid_of(ds, "SOPInstanceUID"), slice_attributes(ds)
        affected = (request.affected_sop_class_uid, request.affected_sop_instance_uid)
        if not standard.is_uid(uid) or affected != (self.row.sop_class_uid, uid):
            return None
        shared = {key: value for key, value in self.row.attributes.items() if key not in SLICE_KEYS}
        sha256 = sha256_of(request.encoded)
        return replace(
            self.row,
            sop_instance_uid=uid,
            attributes=shared | attributes,
            path=instance_path(self.row.series_instance_uid, sha256),
            size=len(request.encoded),
            sha256=sha256,
            association_id=request.association_id,
        )

    def learn(self, content: bytes | bytearray, found: Sequence[EncodedElement], own: frozenset[int]) -> None:
        """Make a shape of a header that the last shape does not fit."""
        is_short = sum(len(element.value) for element in found) <= _SHARED_BYTES - len(own) * _GAP_BYTES
        if is_short and self.syntax != ExplicitVRBigEndian and self.lessons < _LESSONS:
            self.lessons += 1
            by_tag = {element.tag: element for element in found}
            self.shape = _shape_of(content, self.syntax, by_tag, own, self.shape) or self.shape


def _raw(elements: Iterable[EncodedElement], syntax: str) -> dict[int, RawDataElement] | None:
    """The elements of a header that describe the slice, by tag; None where one is of undefined length."""
    of_slice = [element for element in elements if element.tag in _OF_SLICE]
    if any(element.length == UNDEFINED for element in of_slice):
        return None
    return {element.tag: element.raw(syntax != ExplicitVRBigEndian) for element in of_slice}


class _RawElements:
    """What the readers of values need of a Dataset, which takes ten times as long to make."""

    def __init__(self, elements: Mapping[int, RawDataElement]) -> None:
        self._elements = elements

    def get_item(self, tag: BaseTag) -> RawDataElement:
        return self._elements[tag]

    def get(self, keyword: str) -> Any:
        with ignore_value_warnings():
            return Dataset({BaseTag(tag): element for tag, element in self._elements.items()}).get(keyword)


# --- headers compared as bytes ---------------------------------------------------------------------------------


class _Gap(NamedTuple):
    """What lies between two pieces of a header: the value of an element, and before it its length."""

    piece: bytes  # what comes before the gap
    width: int  # number of the bytes of the length; 0 for an element whose length is always `longest`
    longest: int
    element: EncodedElement | None  # that of an earlier header, if it tells slices apart


@dataclass(frozen=True, slots=True)
class _Shape:
    """The bytes that headers have in common, and the gaps between them.

    A walk (`dicom.walk`) of a header with other bytes in the gaps finds the same elements and takes as much of the
    budgets: in a gap is an element of defined length, of which nothing is read or which tells slices apart.
    """

    gaps: Sequence[_Gap]
    end: bytes  # after the last gap, up to tag and VR of the pixel data
    marks: Sequence[tuple[int, int]]  # tag of each element, hash of its value
    differing: frozenset[int]  # places of elements whose values have differed

    def own_elements(self, content: bytes | bytearray) -> list[EncodedElement] | None:
        """The elements of a header that tell slices apart; None for a header of another shape."""
        own: list[EncodedElement] = []
        position = 0
        for piece, width, longest, element in self.gaps:
            if not content.startswith(piece, position):
                return None
            position += len(piece) + width
            length = int.from_bytes(content[position - width : position], "little") if width else longest
            if length > longest:
                return None
            if element is not None:
                value = bytes(content[position : position + length])
                own.append(EncodedElement(element.tag, element.vr, length, value, element.implicit))
            position += length
        return own if content.startswith(self.end, position) else None


def _shape_of(
    content: bytes | bytearray,
    syntax: str,
    found: Mapping[int, EncodedElement],
    own: frozenset[int],
    before: _Shape | None,
) -> _Shape | None:
    """The shape of a header: gaps where `own` elements are, and where it and those before it differed."""
    places = element_places(content, syntax)
    if not 0 < len(places) <= _SHAPED_ELEMENTS or places[-1].end > _SHAPED_BYTES:
        return None
    marks = [(place.tag, hash(bytes(content[place.start : place.end]))) for place in places]
    differing: frozenset[int] = frozenset()
    if before is not None and [tag for tag, _ in before.marks] == [tag for tag, _ in marks]:
        changed = (number for number, mark in enumerate(marks) if mark != before.marks[number])
        differing = before.differing.union(changed)
    meta = len(list(takewhile(lambda place: place.tag >> 16 == 2, places)))
    # The beginning of the dataset decides how it is encoded, and ends the walk of the meta information: it has no gap.
    beginning = places[meta - 1].end if meta else 132
    in_meta = sum(number < meta for number in differing)
    if b"\xff" * 4 in content[beginning : beginning + 12] or beginning - 132 + in_meta * _GAP_BYTES > _META_BYTES:
        return None
    gaps: list[_Gap] = []
    position = 0
    for number, place in enumerate(places):
        element = found.get(place.tag) if place.tag in own else None
        is_early = number >= meta and place.start < beginning + 16
        if element is None and (number not in differing or place.tag in found or is_early or place.length == UNDEFINED):
            continue
        if is_early or place.length == UNDEFINED:
            return None
        width = place.width if number else 0
        longest = place.length if not number else UNDEFINED - 1 if number >= meta and element is None else _GAP_BYTES
        gaps.append(_Gap(bytes(content[position : place.start - width]), width, longest, element))
        position = place.end
    return _Shape(gaps, bytes(content[position : places[-1].end + 8]), marks, differing)
