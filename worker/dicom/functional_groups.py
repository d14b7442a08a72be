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
Macros = Mapping[int, tuple[str, ...]]  # the tag of a macro's sequence → the keywords of its attributes
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
        macros = _macros(header, group, keywords)
        shared |= _texts(header, _items_of(header, group, macros), macros, read)
        break
    others = [keyword for keyword in keywords if keyword not in shared]
    return [shared | variant for variant in _per_frame(header, others, read)]


def _per_frame(header: Header, keywords: Sequence[str], read: _Read) -> list[dict[str, Texts | None]]:
    """At least one variant. Frames are compared as encoded: a frame that is the same as another is not decoded."""
    macros: Macros | None = None
    kinds: dict[tuple[tuple[int, bytes], ...], dict[int, Element]] = {}
    for number, group in enumerate(_groups(header, PER_FRAME) if keywords else ()):
        if macros is None:
            macros = _macros(header, group, keywords)
        if not macros:
            break
        holders = _items_of(header, group, macros)
        kinds.setdefault(_encoded(header, holders, macros), holders)
        if len(kinds) > MAXIMUM_VARIANTS or number >= MAXIMUM_FRAMES:
            return [dict.fromkeys(keyword for macro in macros.values() for keyword in macro)]
    variants = [_texts(header, holders, macros or {}, read) for holders in kinds.values()]
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


def _macros(header: Header, group: Element, keywords: Sequence[str]) -> Macros:
    """The attributes that each macro has; of an attribute that several have, the last macro's counts."""
    wanted = wanted_tags(tuple(keywords))
    found: dict[str, int] = {}
    for macro in _elements(header, group, None):
        item = next(items(macro, header.little, Budget()), None) if macro.is_sequence else None
        tags = {element.tag for element in _elements(header, item, wanted)} if item is not None else set()
        found |= {keyword: macro.tag for keyword in keywords if int(Tag(keyword)) in tags}
    macros: dict[int, tuple[str, ...]] = {}
    for keyword, tag in found.items():
        macros[tag] = (*macros.get(tag, ()), keyword)
    return macros


def _items_of(header: Header, group: Element, macros: Macros) -> dict[int, Element]:
    """The item of each macro in a group, by the macro's tag."""
    found = {}
    for macro in _elements(header, group, dict.fromkeys(macros, 0)):
        item = next(items(macro, header.little, Budget()), None) if macro.is_sequence else None
        if item is not None:
            found[macro.tag] = item
    return found


def _encoded(header: Header, holders: Mapping[int, Element], macros: Macros) -> tuple[tuple[int, bytes], ...]:
    """What a frame has of the attributes, as encoded: its macros' items are walked once each, not once an attribute."""
    return tuple(
        (element.tag, bytes(element.data[element.start : element.end]))
        for tag, item in holders.items()
        for element in _elements(header, item, wanted_tags(macros[tag]))
    )


def _texts(header: Header, holders: Mapping[int, Element], macros: Macros, read: _Read) -> dict[str, Texts | None]:
    texts: dict[str, Texts | None] = {}
    for tag, keywords in macros.items():
        ds = read_item(header, holders[tag], keywords) if tag in holders else Dataset()
        texts |= {keyword: read(ds, keyword) for keyword in keywords}
    return texts
