"""Encode an object of ours as a DICOM file, Explicit VR Little Endian: the bytes that pydicom writes, in less time.

pydicom writes each element through a file object of its own, and walks the dataset for ambiguous VRs once for each
level. Of what was built here neither is needed: short texts, which nearly all elements are, and sequences are written
here, all other values by pydicom. The items of a list of images, hundreds of the same form, are bytes from the start.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO

from pydicom import DataElement, Dataset, dcmwrite
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element
from pydicom.tag import BaseTag, Tag

_HEADER, _LONG_HEADER, _ITEM = struct.Struct("<HH2sH"), struct.Struct("<HH2s2xL"), struct.Struct("<HHL")
_SOP_CLASS, _SOP_INSTANCE = Tag("ReferencedSOPClassUID"), Tag("ReferencedSOPInstanceUID")
_SOP_SEQUENCE = Tag("ReferencedSOPSequence")
_SHORT_TEXTS = frozenset({"AS", "CS", "DA", "DT", "LO", "SH", "TM", "UI"})
_LONGEST = 64


class _OfOtherOriginError(Exception):
    """Part of the dataset was read from a file, or has an ambiguous VR: pydicom encodes the whole."""


def encode(ds: Dataset) -> bytes:
    """`ds` as a DICOM file. Raises as `pydicom.dcmwrite` does."""
    with suppress(_OfOtherOriginError):
        ds = _with_encoded_sequences(ds)
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def encoded_sequence(keyword: str, items: Iterable[bytes]) -> RawDataElement:
    """A sequence of encoded items, which pydicom decodes when somebody reads it."""
    return _as_raw(Tag(keyword), b"".join(items))


def encoded_item(ds: Dataset) -> bytes:
    """A dataset that was built here, of ASCII text, as an item of a sequence (PS3.5 7.5)."""
    return _item(ds, (default_encoding,))


def encoded_items(like: Dataset, references: Iterable[bytes]) -> Iterator[bytes]:
    """Items with the elements of `like`, all after (0008,1199), and a Referenced SOP Sequence of one reference each."""
    others = encoded_item(like)[_ITEM.size :]
    for reference in references:
        yield _wrapped(_sequence(_SOP_SEQUENCE, reference) + others)


def encoded_reference(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """An item that names an image (PS3.3 Table 10-11)."""
    return _wrapped(
        _short_text(_SOP_CLASS, "UI", sop_class_uid.encode(default_encoding))
        + _short_text(_SOP_INSTANCE, "UI", sop_instance_uid.encode(default_encoding))
    )


def _with_encoded_sequences(ds: Dataset) -> Dataset:
    """A dataset of the same elements whose sequences are encoded. Raises _OfOtherOriginError."""
    encodings = tuple(convert_encodings(ds.get("SpecificCharacterSet") or default_encoding))
    sequences, flat = [], Dataset()
    for value in ds.elements():
        if value.VR == "SQ":
            sequences.append(value)
        elif isinstance(value, RawDataElement):
            raise _OfOtherOriginError
        else:
            flat[value.tag] = value
    correct_ambiguous_vr(flat, is_little_endian=True)
    for value in sequences:
        flat[value.tag] = _as_raw(value.tag, _items(value, encodings))
    flat.file_meta = ds.file_meta
    flat.set_original_encoding(False, True, list(encodings))
    return flat


def _items(value: DataElement | RawDataElement, encodings: tuple[str, ...]) -> bytes:
    """The encoded items of a sequence."""
    if isinstance(value, RawDataElement):
        if value.is_implicit_VR or not value.is_little_endian or value.value is None:
            raise _OfOtherOriginError
        return bytes(value.value)
    return b"".join(_item(one, encodings) for one in value.value)


def _item(ds: Dataset, encodings: tuple[str, ...]) -> bytes:
    if ds.original_encoding != (None, None) or "SpecificCharacterSet" in ds:
        raise _OfOtherOriginError
    values = sorted(ds.elements(), key=lambda value: value.tag)
    return _wrapped(b"".join(_element(value, encodings) for value in values))


def _as_raw(tag: BaseTag, items: bytes) -> RawDataElement:
    return RawDataElement(tag, "SQ", len(items), items, 0, False, True)


def _sequence(tag: BaseTag, items: bytes) -> bytes:
    return _LONG_HEADER.pack(tag >> 16, tag & 0xFFFF, b"SQ", len(items)) + items


def _wrapped(elements: bytes) -> bytes:
    return _ITEM.pack(0xFFFE, 0xE000, len(elements)) + elements


def _element(value: DataElement | RawDataElement, encodings: tuple[str, ...]) -> bytes:
    if value.VR == "SQ":
        return _sequence(value.tag, _items(value, encodings))
    if isinstance(value, RawDataElement) or len(value.VR) != 2:
        raise _OfOtherOriginError
    text = value.value
    if value.VR in _SHORT_TEXTS and isinstance(text, str) and len(text) <= _LONGEST and text.isascii():
        return _short_text(value.tag, value.VR, text.encode())
    buffer = BytesIO()
    writer = DicomIO(buffer)
    writer.is_implicit_VR, writer.is_little_endian = False, True
    write_data_element(writer, value, list(encodings))
    return buffer.getvalue()


def _short_text(tag: BaseTag, vr: str, text: bytes) -> bytes:
    if len(text) % 2:
        text += b"\0" if vr == "UI" else b" "
    return _HEADER.pack(tag >> 16, tag & 0xFFFF, vr.encode(), len(text)) + text
