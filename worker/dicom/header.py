"""Read a DICOM file up to its pixel data, with bounded memory."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from worker.dicom.standard import TRANSFER_SYNTAXES

HEADER_BYTES = 16 << 20  # of a deflated dataset; the elements before the pixels take far less
_FIRST_PIXEL_TAG = 0x7FE00001  # Extended Offset Table


@contextmanager
def ignore_value_warnings() -> Iterator[None]:
    """pydicom's warnings quote values (architecture, invariant 6), and odd ones are the peer's or the scanner's."""
    with warnings.catch_warnings(action="ignore"):
        yield


def read_header(file: BinaryIO, keywords: Sequence[str] | None = None) -> Dataset:
    """The elements before the pixel data; only those named by `keywords`, if given.

    A few kilobytes of a deflated dataset may inflate to gigabytes (PS3.5 A.5), so no more than HEADER_BYTES are
    inflated. Raises whatever pydicom and zlib raise on damage, and OSError.
    """
    if file.read(132)[128:] == b"DICM":
        meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
        syntax = meta.get("TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:
            return _read_deflated(file.read(), keywords)
        if keywords and syntax in TRANSFER_SYNTAXES:  # dcmread would read the meta information again, slowly
            return _read_elements(file, keywords, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    file.seek(0)
    return dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(keywords) if keywords else None)


def _read_deflated(deflated: bytes, keywords: Sequence[str] | None) -> Dataset:
    header = zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, HEADER_BYTES)
    return _read_elements(BytesIO(header), keywords)


def _read_elements(
    file: BinaryIO, keywords: Sequence[str] | None, implicit: bool = False, little_endian: bool = True
) -> Dataset:
    return read_dataset(
        file, implicit, little_endian,
        stop_when=lambda tag, _vr, _length: tag >= _FIRST_PIXEL_TAG,
        specific_tags=_tags(tuple(keywords)) if keywords else None,
    )  # fmt: skip


@lru_cache
def _tags(keywords: tuple[str, ...]) -> list[BaseTag]:
    return [Tag(keyword) for keyword in keywords]
