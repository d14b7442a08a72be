"""Values that their representation forbids (PS3.5 6.2): scanners write them, so they are read and passed on.

So are elements in explicit encoding whose value representation is blank, NUL, "??" or in small letters. Their length
has two bytes, as DCMTK reads them, where pydicom takes them for implicitly encoded; the data dictionary tells what they
are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from pydicom import Dataset, config, filereader, hooks
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

ODD_VRS = frozenset(
    (b"  ", b"\0\0", b"??", b"--", *(str(vr).lower().encode() for vr in STANDARD_VR - EXPLICIT_VR_LENGTH_32))
)


@contextmanager
def ignore_value_warnings() -> Iterator[None]:
    """pydicom's warnings quote values (architecture, invariant 6), and odd ones are the peer's or the scanner's."""
    with warnings.catch_warnings(action="ignore"):
        yield


@ignore_value_warnings()
def add_value(ds: Dataset, keyword: str, value: Any) -> None:
    """Add an element with its value unchanged, or without a value where pydicom cannot hold it."""
    try:
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE))
    except (ValueError, TypeError):
        ds.add(DataElement(keyword, dictionary_VR(keyword), None))


@ignore_value_warnings()
def remove_unreadable(ds: Dataset) -> None:
    """Remove the elements whose values cannot be read: a single bad number of a scanner makes no query fail."""
    for tag in list(ds.keys()):
        try:
            ds[tag]
        except Exception:  # hostile bytes may raise anything in a parser; such an element is as good as absent
            del ds[tag]


def is_odd_vr(element: bytes | bytearray) -> bool:
    """Whether an element's eight bytes of tag, VR and length show an odd VR, not the length of an implicit element."""
    vr, length = bytes(element[4:6]), bytes(element[6:8])
    return vr in ODD_VRS and (vr != b"\0\0" or length not in (b"", b"\0\0"))


def _read_odd_vrs() -> None:
    """Have pydicom read them so, too."""
    find_implicit, find_vr = filereader._is_implicit_vr, hooks.raw_element_vr

    def is_implicit(file: BinaryIO, assumed: bool, *arguments: Any, **keywords: Any) -> bool:
        start = file.tell()
        if not assumed and is_odd_vr(file.read(8)):
            return False
        file.seek(start)
        return bool(find_implicit(file, assumed, *arguments, **keywords))

    def element_vr(raw: RawDataElement, data: dict[str, Any], **keywords: Any) -> None:
        is_odd = raw.VR is not None and raw.VR.encode("latin-1") in ODD_VRS
        find_vr(raw._replace(VR=None) if is_odd else raw, data, **keywords)

    filereader.ENCODED_VR |= ODD_VRS
    filereader._is_implicit_vr = is_implicit
    hooks.hooks.register_callback("raw_element_vr", element_vr)


if not ODD_VRS <= filereader.ENCODED_VR:
    _read_odd_vrs()
