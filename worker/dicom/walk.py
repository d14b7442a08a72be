"""Walk the elements of an encoded dataset (PS3.5 7) without building what is not asked for, within budgets.

A dataset of kilobytes can hold a million empty items, or inflate to them: pydicom makes an object of each, asked for or
not. Here a sequence is skipped by its length, or by stepping over its items without an object, in a loop and not by
recursion. Elements, items, depth and inflated bytes have budgets; beyond them TooComplex is raised at once, so time and
memory stay linear with a small factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from struct import error as struct_error

from pydicom.datadict import dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from worker.dicom.odd_values import ODD_VRS, is_odd_vr
from worker.dicom.sources import EndOfBytes, Source, TooComplex

FIRST_PIXEL_TAG = 0x7FE00001  # Extended Offset Table
TOP_ELEMENTS = 1 << 15  # of the top level; scanners write hundreds, with their private ones a few thousand
FREE_ELEMENTS = 3 << 16  # within sequences: the functional groups of 1,700 frames
BYTES_AN_ELEMENT = 16  # beyond the free ones; functional groups take 9 to 14, so those of 5,000 frames are read
DEPTH = 64  # sequences within sequences

UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)
_SHORT = frozenset(str(vr).encode() for vr in STANDARD_VR) - _LONG
_NEVER = 1 << 62
_EXPLICIT = (Struct(">HH2sH").unpack_from, Struct("<HH2sH").unpack_from)
_IMPLICIT = (Struct(">HHI").unpack_from, Struct("<HHI").unpack_from)
_LENGTH = (Struct(">I").unpack_from, Struct("<I").unpack_from)
_MARKER = (Struct(">HH").pack, Struct("<HH").pack)


@dataclass(slots=True)
class Budget:
    """Counts elements and items; `origin` is where the bytes at hand begin in the dataset."""

    free: int = FREE_ELEMENTS
    bytes_an_element: int = BYTES_AN_ELEMENT  # 0: no more than the free ones
    item_weight: int = 2  # of items and sequences: there are many empty ones in few bytes
    spent: int = 0
    origin: int = 0

    def allowed(self, position: int) -> int:
        more = (self.origin + position) // self.bytes_an_element if self.bytes_an_element else 0
        return self.free + more


@dataclass(slots=True)
class Element:
    """An element whose value is `data[start:end]`, up to the end of `data`; of undefined length, with its delimiter."""

    tag: int
    vr: str | None  # None: encoded implicitly
    length: int
    data: bytes | bytearray
    start: int
    end: int
    is_sequence: bool
    implicit: bool


# --- the elements of the top level -----------------------------------------------------------------------------


def elements(
    source: Source,
    implicit: bool,
    little: bool,
    budget: Budget,
    wanted: Mapping[int, int] | None,
    nested: bool = False,
) -> Iterator[Element]:
    """The elements that are asked for, up to the pixel data. Use each before you take the next.

    `wanted`: how many bytes of the value are asked for, by tag; None: all of all. A sequence is never cut. `nested`:
    these are the elements of an item. `source.pixels` tells where the pixel data begin. Raises TooComplex, and
    ValueError or EOFError for a sequence that is malformed or has no end.
    """  # fmt: skip
    position = source.position
    unpack_explicit, unpack_length = _EXPLICIT[little], _LENGTH[little]
    is_first, count = True, 0
    while True:
        data = source.data
        if position + 12 > len(data) and not source.is_whole:
            position = source.refill(position)
            continue
        if position + 8 > len(data):
            return
        if is_first:
            implicit = (nested and implicit) or is_implicit(data, position, implicit)
            is_first = False
        budget.origin = source.origin
        count += 1
        if count > TOP_ELEMENTS:
            raise TooComplex("elements")
        group, number, raw, length = unpack_explicit(data, position)
        start, vr = position + 8, None
        if implicit or (not b"AA" <= raw <= b"ZZ" and raw not in ODD_VRS):
            length = unpack_length(data, position + 4)[0]
        elif raw in _LONG:
            if position + 12 > len(data):
                return
            length, start, vr = unpack_length(data, position + 8)[0], position + 12, raw.decode()
        else:
            vr = raw.decode("latin-1") if raw not in ODD_VRS else "UN"
        tag = group << 16 | number
        if tag >= FIRST_PIXEL_TAG:
            source.pixels = (position, implicit)
            return
        asked = wanted is None or tag in wanted
        if length != UNDEFINED:
            end = start + length
            if asked and start + 4 > len(data) and not source.is_whole:
                count -= 1
                position = source.refill(position)
                continue
            is_sequence = asked and holds_items(vr, data, start, end, little)
            needed = end if is_sequence or wanted is None or not asked else min(end, start + wanted[tag])
            if asked and needed > len(data) and not source.is_whole:
                count -= 1
                position = source.refill(position)
                continue
            if asked:
                yield Element(tag, vr, length, data, start, needed, is_sequence, implicit or vr is None)
            position = end
            continue
        try:
            end, is_sequence = _end_of_undefined(data, start, tag, vr, implicit or vr is None, little, budget)
        except EndOfBytes:
            if source.is_whole:
                raise EOFError("an element of undefined length has no end") from None
            count -= 1
            position = source.refill(position)
            continue
        if asked:
            yield Element(tag, vr, length, data, start, end, is_sequence, implicit or vr is None)
        position = end


def is_implicit(data: bytes | bytearray, position: int, assumed: bool = False) -> bool:
    """Whether the element there shows no VR: some senders do not encode a dataset as its transfer syntax says."""
    vr = data[position + 4 : position + 6]
    if not assumed and is_odd_vr(data[position : position + 8]):
        return False
    return not (len(vr) == 2 and 0x40 < vr[0] < 0x5B and 0x40 < vr[1] < 0x5B)


def items(element: Element, little: bool, budget: Budget) -> Iterator[Element]:
    """The items of a sequence, each as an element whose value is what it holds.

    Raises TooComplex, and ValueError or EOFError where they are malformed.
    """
    data, position, implicit = element.data, element.start, element.implicit
    end = min(element.end, len(data))
    while position + 8 <= end:
        group, number, length = _IMPLICIT[little](data, position)
        start = position = position + 8
        if group != 0xFFFE:
            raise ValueError("a sequence holds what is no item")
        if number == 0xE0DD:
            return
        budget.spent += budget.item_weight
        if budget.spent > budget.allowed(position):
            raise TooComplex("items")
        if length != UNDEFINED:
            last = position = position + length
        else:
            inner = implicit or is_implicit(data, position)
            try:
                position = walk_items(data, position, _NEVER, inner, little, budget, in_item=True)
            except EndOfBytes:
                raise EOFError("an item of undefined length has no end") from None
            last = position - 8
        yield Element(_ITEM, None, length, data, start, min(last, end), False, implicit)


def holds_items(vr: str | None, data: bytes | bytearray, start: int, end: int, little: bool) -> bool:
    """Whether an element of defined length is a sequence, or may be read as a sequence."""
    if vr not in ("SQ", "UN", None):
        return False
    return end - start >= 8 and data[start : start + 4] == _MARKER[little](_ITEM >> 16, _ITEM & 0xFFFF)


# --- what they hold --------------------------------------------------------------------------------------------


def _end_of_undefined(
    data: bytes | bytearray, start: int, tag: int, vr: str | None, implicit: bool, little: bool, budget: Budget
) -> tuple[int, bool]:
    """(the position after an element of undefined length, whether it is a sequence). Raises EndOfBytes."""
    if is_undefined_sequence(data, start, tag, vr, little):
        return walk_items(data, start, _NEVER, implicit, little, budget), True
    found = data.find(_MARKER[little](_SEQUENCE_END >> 16, _SEQUENCE_END & 0xFFFF), start)
    if found < 0 or found + 8 > len(data):
        raise EndOfBytes
    return found + 8, False


def is_undefined_sequence(data: bytes | bytearray, start: int, tag: int, vr: str | None, little: bool) -> bool:
    """As pydicom decides it: SQ, UN (PS3.5 6.2.2), and without a VR what the dictionary or its beginning tells."""
    if vr is not None:
        return vr in ("SQ", "UN")
    try:
        return bool(dictionary_VR(tag) == "SQ")
    except KeyError:
        if start + 4 > len(data):
            raise EndOfBytes from None
        return data[start : start + 4] == _MARKER[little](_ITEM >> 16, _ITEM & 0xFFFF)


def _skip_elements(
    data: bytes | bytearray, position: int, implicit: bool, little: bool, spent: int, allowed: int
) -> tuple[int, int]:
    """(position, spent) at the first element, of those of an item, that takes more than adding its length."""
    try:
        if implicit:
            unpack_implicit = _IMPLICIT[little]
            while spent < allowed:
                group, _, length = unpack_implicit(data, position)
                if group == 0xFFFE or length == UNDEFINED:
                    break
                position += 8 + length
                spent += 1
        else:
            unpack_explicit = _EXPLICIT[little]
            while spent < allowed:
                _, _, vr, length = unpack_explicit(data, position)
                if vr not in _SHORT:
                    break
                position += 8 + length
                spent += 1
    except struct_error:
        raise EndOfBytes from None
    return position, spent


def walk_items(
    data: bytes | bytearray,
    position: int,
    end: int,
    implicit: bool,
    little: bool,
    budget: Budget,
    inside: bool = False,
    in_item: bool = False,
) -> int:
    """The position after a sequence whose items begin at `position`.

    `inside`: count what items and sequences of defined length hold, too. `in_item`: the position after an item of
    undefined length, whose elements begin at `position`. Raises TooComplex, and ValueError for what is no item.
    """  # fmt: skip
    unpack_explicit, unpack_implicit, unpack_length = _EXPLICIT[little], _IMPLICIT[little], _LENGTH[little]
    size, spent, allowed, weight = len(data), budget.spent, budget.free, budget.item_weight
    item_end = _MARKER[little](_ITEM_END >> 16, _ITEM_END & 0xFFFF) + bytes(4)
    outer: list[tuple[bool, int, bool]] = []
    while True:
        if in_item and not inside:
            position, spent = _skip_elements(data, position, implicit, little, spent, allowed)
        if position >= end:
            if not outer:
                break
            in_item, end, implicit = outer.pop()
            continue
        if position + 8 > size:
            raise EndOfBytes
        if spent > allowed:
            allowed = budget.allowed(position)
            if spent > allowed:
                raise TooComplex("items")
        if not in_item:
            group, number, length = unpack_implicit(data, position)
            position += 8
            if group != 0xFFFE:
                raise ValueError("a sequence holds what is no item")
            if number == 0xE0DD:
                spent += 1
                if not outer:
                    break
                in_item, end, implicit = outer.pop()
                continue
            spent += weight
            if length != UNDEFINED and not inside:
                position += length
                continue
            if length == UNDEFINED and data[position : position + 8] == item_end:  # an empty item
                position += 8
                spent += 1
                continue
            outer.append((False, end, implicit))
            in_item, end = True, position + length if length != UNDEFINED else _NEVER
            if not implicit and position + 6 > size:
                raise EndOfBytes
            implicit = implicit or is_implicit(data, position)
        else:
            spent += 1
            group, number, vr, length = unpack_explicit(data, position)
            start = position + 8
            if group == 0xFFFE and number == 0xE00D:
                position = start
                if not outer:
                    break
                in_item, end, implicit = outer.pop()
                continue
            if implicit or (not b"AA" <= vr <= b"ZZ" and vr not in ODD_VRS):
                length, vr = unpack_length(data, position + 4)[0], b""
            elif vr in _LONG:
                if position + 12 > size:
                    raise EndOfBytes
                length, start = unpack_length(data, start)[0], position + 12
            position = start + length
            if length != UNDEFINED and not inside:
                continue
            name, tag = vr.decode("latin-1") or None, group << 16 | number
            if length != UNDEFINED:
                if not holds_items(name, data, start, position, little):
                    continue
                following = position
            elif is_undefined_sequence(data, start, tag, name, little):
                following = _NEVER
            else:
                position, _ = _end_of_undefined(data, start, tag, name, implicit, little, budget)
                continue
            spent += weight - 1
            outer.append((True, end, implicit))
            in_item, end, position = False, following, start
            implicit = implicit or not name
            if len(outer) > 2 * DEPTH:
                raise TooComplex("depth")
    budget.spent = spent
    return position
