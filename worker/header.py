"""A DICOM file up to its pixel data, read with bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

HEADER_BYTES = 16 << 20  # of a deflated dataset; what lies before the pixels is far less
_FIRST_PIXEL_TAG = 0x7FE00001  # Extended Offset Table


def read_header(file: BinaryIO, keywords: Sequence[str] | None = None) -> Dataset:
    """The elements before the pixel data, of those named by `keywords` where they are given.

    A few kilobytes of a deflated dataset may inflate to gigabytes (PS3.5 A.5): no more than HEADER_BYTES of it are
    made. Raises whatever pydicom and zlib raise on damage, and OSError.
    """
    if file.read(132)[128:] == b"DICM":
        meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _read_deflated(file.read(), keywords)
    file.seek(0)
    return dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(keywords) if keywords else None)


def _read_deflated(deflated: bytes, keywords: Sequence[str] | None) -> Dataset:
    header = zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, HEADER_BYTES)
    return read_dataset(
        BytesIO(header), False, True,
        stop_when=lambda tag, _vr, _length: tag >= _FIRST_PIXEL_TAG,
        specific_tags=[Tag(one) for one in keywords] if keywords else None,
    )  # fmt: skip
