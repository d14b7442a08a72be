"""Attributes in the functional groups of a multi-frame image (PS3.3 C.7.6.16): those that are not at top level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from worker.dicom.header import Header, read_item, wanted_tags
from worker.dicom.sources import Source
from worker.dicom.walk import Budget, Element, elements, items

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
MAXIMUM_VARIANTS = 64  # of frames that differ in what rules need; routing rules are per series, not per frame
MAXIMUM_FRAMES = 1 << 14

Texts = list[str]
_Read = Callable[[Dataset, str], Texts]


def has_groups(header: Header) -> bool:
    """Whether a dataset has functional groups."""
    return SHARED in header.sequences or PER_FRAME in header.sequences


def frame_variants(header: Header, keywords: Sequence[str], read: _Read) -> list[dict[str, Texts | None]]:
    """The values of attributes in functional groups: one variant for all frames that have the same, at least one.

    A macro is either shared or in every frame's group, so a value is looked up in the shared groups first, then in the
    frames' groups. All groups have the same macros, so the first shows which has what. An attribute that no group has
    is in no variant; where more than MAXIMUM_VARIANTS variants differ, its value is None. `read` gives the texts of an
    attribute of a dataset. Raises whatever the parsers raise on damage.
    """
    shared: dict[str, Texts | None] = {}
    for group in _groups(header, SHARED):
        shared |= _texts(header, _values_of(header, group, _macros(header, group, keywords)), read)
        break
    others = [keyword for keyword in keywords if keyword not in shared]
    return [shared | variant for variant in _per_frame(header, others, read)]


def _per_frame(header: Header, keywords: Sequence[str], read: _Read) -> list[dict[str, Texts | None]]:
    """At least one variant. Frames are compared as encoded: a frame that is the same as another is not decoded."""
    macros: dict[str, int] | None = None
    kinds: dict[tuple[bytes | None, ...], dict[str, Element | None]] = {}
    for number, group in enumerate(_groups(header, PER_FRAME) if keywords else ()):
        if macros is None:
            macros = _macros(header, group, keywords)
        if not macros:
            break
        holders = _values_of(header, group, macros)
        kinds.setdefault(_encoded(header, holders), holders)
        if len(kinds) > MAXIMUM_VARIANTS or number >= MAXIMUM_FRAMES:
            return [dict.fromkeys(macros)]
    variants = [_texts(header, holders, read) for holders in kinds.values()]
    different = {
        tuple((keyword, tuple(texts or ())) for keyword, texts in variant.items()): variant for variant in variants
    }
    return list(different.values()) or [{}]


def _groups(header: Header, keyword: str) -> Iterator[Element]:
    sequence = header.sequences.get(keyword)
    return items(sequence, header.little, Budget()) if sequence is not None else iter(())


def _elements(header: Header, item: Element, wanted: Mapping[int, int] | None) -> Iterator[Element]:
    source = Source(item.data[item.start : item.end])
    return elements(source, item.implicit, header.little, Budget(), wanted, nested=True)


def _macros(header: Header, group: Element, keywords: Sequence[str]) -> dict[str, int]:
    """The tag of the macro that has each attribute."""
    wanted = wanted_tags(tuple(keywords))
    found: dict[str, int] = {}
    for macro in _elements(header, group, None):
        item = next(items(macro, header.little, Budget()), None) if macro.is_sequence else None
        tags = {element.tag for element in _elements(header, item, wanted)} if item is not None else set()
        found |= {keyword: macro.tag for keyword in keywords if int(Tag(keyword)) in tags}
    return found


def _values_of(header: Header, group: Element, macros: Mapping[str, int]) -> dict[str, Element | None]:
    """The item of each attribute's macro in a group."""
    holders: dict[int, Element | None] = {}
    for macro in _elements(header, group, dict.fromkeys(macros.values(), 0)):
        if macro.is_sequence:
            holders[macro.tag] = next(items(macro, header.little, Budget()), None)
    return {keyword: holders.get(tag) for keyword, tag in macros.items()}


def _encoded(header: Header, holders: Mapping[str, Element | None]) -> tuple[bytes | None, ...]:
    values: list[bytes | None] = []
    for keyword, item in holders.items():
        wanted = wanted_tags((keyword,))
        found = (
            [bytes(element.data[element.start : element.end]) for element in _elements(header, item, wanted)]
            if item is not None
            else []
        )
        values.append(b"\\".join(found) if found else None)
    return tuple(values)


def _texts(header: Header, holders: Mapping[str, Element | None], read: _Read) -> dict[str, Texts | None]:
    return {
        keyword: read(read_item(header, item, [keyword]), keyword) if item is not None else []
        for keyword, item in holders.items()
    }
