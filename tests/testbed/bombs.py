"""Datasets that are made to cost their reader much more than they cost their sender."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from worker.dicom.standard import derive_uid
from worker.network.part10 import file_beginning
from worker.storage.acceptance import StoreRequest

MIB = 1 << 20
SOP_INSTANCE = derive_uid("bomb")
EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
_ITEM, _ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _value(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Explicit VR Little Endian."""
    value, head = _value(value), struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    length = len(value) if length is None else length
    if vr in (b"OB", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HI", 0, length) + value
    return head + struct.pack("<H", length) + value


def undefined(tag: int, vr: bytes, content: bytes) -> bytes:
    return element(tag, vr, b"", 0xFFFFFFFF) + content + _SEQUENCE_END


def item(*elements: bytes) -> bytes:
    return b"".join([_ITEM, *elements, _ITEM_END])


def _base() -> dict[int, tuple[bytes, bytes]]:
    return {
        0x00080016: (b"UI", MRImageStorage.encode() + b"\0"),
        0x00080018: (b"UI", SOP_INSTANCE.encode() + b"\0" * (len(SOP_INSTANCE) % 2)),
        0x00080060: (b"CS", b"MR"),
        0x00100010: (b"PN", b"A^B "),
        0x00100020: (b"LO", b"P "),
        0x0020000D: (b"UI", b"1.2.3.4.5\0"),
        0x0020000E: (b"UI", b"1.2.3.4.6\0"),
    }


def explicit(*hostile: bytes) -> bytes:
    """An image's header with hostile elements; they come before the patient's."""
    parts = [element(tag, vr, value) for tag, (vr, value) in _base().items()]
    return b"".join([*parts[:3], *hostile, *parts[3:]])


def implicit(**values: bytes) -> bytes:
    """An image's header in Implicit VR, where any value may have any length; `values` by tag, as T00100020."""
    merged = {tag: value for tag, (_, value) in _base().items()}
    return implicit_elements(merged | {int(name[1:], 16): value for name, value in values.items()})


def implicit_elements(values: Mapping[int, bytes]) -> bytes:
    encoded = [(tag, _value(value)) for tag, value in sorted(values.items())]
    return b"".join(struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value for tag, value in encoded)


def deflated(content: bytes) -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compress.compress(content) + compress.flush()


def nested(depth: int) -> bytes:
    head = element(0x00081140, b"SQ", b"", 0xFFFFFFFF) + _ITEM
    return head * depth + (_ITEM_END + _SEQUENCE_END) * depth


_FULL_ITEM = item(element(0x00180080, b"DS", b"550") * 52)  # 640 bytes
_EMPTY_SEQUENCE = undefined(0x00081140, b"SQ", b"")
# What is sent → (transfer syntax, dataset, whether it is refused as too complex). All others are stored.
BOMBS: dict[str, tuple[UID, Callable[[], bytes], bool]] = {
    "a deflated sequence of empty items": (
        DeflatedExplicitVRLittleEndian,
        lambda: deflated(explicit(undefined(0x00081140, b"SQ", EMPTY_ITEM * (15 * MIB // 8)))),
        True,
    ),
    "8 MiB of empty items": (
        ExplicitVRLittleEndian, lambda: explicit(undefined(0x00081140, b"SQ", EMPTY_ITEM * MIB)), True,
    ),
    "8 MiB of empty items of undefined length": (
        ExplicitVRLittleEndian,
        lambda: explicit(undefined(0x00081140, b"SQ", (_ITEM + _ITEM_END) * (MIB // 2))),
        True,
    ),
    "8 MiB of items of an element": (
        ExplicitVRLittleEndian,
        lambda: explicit(undefined(0x00081140, b"SQ", item(element(0x00180080, b"DS", b"")) * (MIB // 3))),
        True,
    ),
    "8 MiB of a private UN sequence": (
        ExplicitVRLittleEndian, lambda: explicit(undefined(0x00091001, b"UN", EMPTY_ITEM * MIB)), True,
    ),
    "8 MiB of items with a defined length around them": (
        ExplicitVRLittleEndian, lambda: explicit(element(0x00081140, b"SQ", EMPTY_ITEM * MIB)), False,
    ),
    "16 MiB of sequences in an item": (
        ExplicitVRLittleEndian,
        lambda: explicit(undefined(0x00081140, b"SQ", item(_EMPTY_SEQUENCE * (16 * MIB // 20)))),
        True,
    ),
    "16 MiB of elements in items": (
        ExplicitVRLittleEndian, lambda: explicit(undefined(0x00081140, b"SQ", _FULL_ITEM * (16 * MIB // 640))),
        True,
    ),
    "1 MiB of private elements": (
        ExplicitVRLittleEndian,
        lambda: explicit(*[element(0x00090000 + (n >> 15 << 17) + (n & 0x7FFF), b"LO", b"") for n in range(MIB // 8)]),
        True,
    ),
    "100,000 times PatientID": (
        ExplicitVRLittleEndian, lambda: explicit(*[element(0x00100020, b"LO", b"")] * 100_000), True,
    ),
    "10,000 sequences within one another": (ExplicitVRLittleEndian, lambda: explicit(nested(10_000)), True),
    "deflated zeros": (
        DeflatedExplicitVRLittleEndian,
        lambda: deflated(explicit(element(0x00091001, b"OB", b"", 0x7FFFFFFE)) + bytes(256 * MIB)),
        True,
    ),
    "16 MiB of backslashes in PatientID": (
        ImplicitVRLittleEndian, lambda: implicit(T00100020=b"\\" * 16 * MIB), False,
    ),
    "15 MiB of names": (ImplicitVRLittleEndian, lambda: implicit(T00100010=b"A^\\" * 5 * MIB), False),
    "16 MiB of image types": (ImplicitVRLittleEndian, lambda: implicit(T00080008=b"A\\" * 8 * MIB), False),
    "8 MiB of character sets": (ImplicitVRLittleEndian, lambda: implicit(T00080005=b"A\\" * 4 * MIB), False),
    "128 KiB of a name in punycode": (
        ImplicitVRLittleEndian, lambda: implicit(T00080005=b"punycode", T00100010=b"a" * (MIB // 8)), False,
    ),
    "16 MiB of numbers": (ImplicitVRLittleEndian, lambda: implicit(T00200032=b"1\\" * 8 * MIB), False),
}  # fmt: skip


def request(name: str, dataset: bytes | None = None) -> StoreRequest:
    """As C-STORE brings it."""
    syntax, make, _ = BOMBS[name]
    beginning = file_beginning(MRImageStorage, SOP_INSTANCE, syntax)
    encoded = bytearray(beginning + (make() if dataset is None else dataset))
    return StoreRequest(MRImageStorage, SOP_INSTANCE, syntax, encoded)
