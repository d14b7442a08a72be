"""Read a DICOM file up to its pixel data, with bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from worker.dicom.odd_values import ignore_value_warnings, remove_unreadable
from worker.dicom.standard import TRANSFER_SYNTAXES
from worker.logs import fault_fields, get_log

HEADER_BYTES = 16 << 20  # of a deflated dataset; the elements before the pixels take far less
_FIRST_PIXEL_TAG = 0x7FE00001  # Extended Offset Table


def read_stored_header(path: Path, tags: Sequence[str | int] | None = None) -> Dataset:
    """As `read_header`, of a stored file, without elements that cannot be read; empty for a file gone or damaged."""
    try:
        with ignore_value_warnings(), path.open("rb") as file:
            ds = read_header(file, tags)
            remove_unreadable(ds)
    except FileNotFoundError:
        return Dataset()  # retention may have deleted it since the row was read
    except Exception as error:  # a boundary: what is wrong in a stored file may raise anything in the parser
        get_log().warning("header not read", **fault_fields(error))
        return Dataset()
    return ds


def read_header(file: BinaryIO, tags: Sequence[str | int] | None = None) -> Dataset:
    """The elements before the pixel data; only these tags or keywords, if given.

    A few kilobytes of a deflated dataset may inflate to gigabytes (PS3.5 A.5), so no more than HEADER_BYTES are
    inflated. Raises whatever pydicom and zlib raise on damage, and OSError.
    """
    if file.read(132)[128:] == b"DICM":
        meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
        syntax = meta.get("TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:
            return _read_deflated(file.read(), tags)
        if tags and syntax in TRANSFER_SYNTAXES:  # dcmread would read the meta information again, slowly
            return _read_elements(file, tags, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    file.seek(0)
    return dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(tags) if tags else None)


def _read_deflated(deflated: bytes, tags: Sequence[str | int] | None) -> Dataset:
    header = zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, HEADER_BYTES)
    return _read_elements(BytesIO(header), tags)


def _read_elements(
    file: BinaryIO, tags: Sequence[str | int] | None, implicit: bool = False, little_endian: bool = True
) -> Dataset:
    return read_dataset(
        file, implicit, little_endian,
        stop_when=lambda tag, _vr, _length: tag >= _FIRST_PIXEL_TAG,
        specific_tags=_as_tags(tuple(tags)) if tags else None,
    )  # fmt: skip


@lru_cache
def _as_tags(tags: tuple[str | int, ...]) -> list[BaseTag]:
    return [Tag(tag) for tag in tags]
