"""Whether two files hold the same pixels, told from their bytes: nothing is decoded, so any receiver may ask.

Two contents of an instance are alike where what describes the pixels (Image Pixel module, PS3.3 C.7.6.3) and the bytes
of the pixel data are equal, in the same transfer syntax. How the bytes are cut into fragments does not count, nor do
offset tables, padding behind the pixel data, or any other attribute.
"""

from __future__ import annotations

import hashlib
import struct
from typing import BinaryIO, Protocol

from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from worker.dicom.header import start_of_dataset
from worker.dicom.sources import DeflatedSource, EndOfBytes, FileSource
from worker.dicom.walk import UNDEFINED, Budget, elements

INFLATED_PIXELS = 256 << 20  # of a deflated file: kilobytes may inflate to gigabytes
_DESCRIBING = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_WANTED = {int(Tag(keyword)): 64 for keyword in _DESCRIBING}
_TEXTS = (int(Tag("PhotometricInterpretation")), int(Tag("NumberOfFrames")))  # which may be padded
_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double float, integer
_PIXEL_GROUP, _ITEMS, _ITEM = 0x7FE0, 0xFFFE, 0xE000
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OV", b"OL", b"UN", b"SV", b"UV")
_PIECE = 1 << 20


def pixel_digest(file: BinaryIO, transfer_syntax_uid: str) -> str:
    """A digest of the pixels of a DICOM file and of what describes them; the same for all files without pixel data.

    Linear in time, with the memory of a piece. Raises whatever a parser raises on damage, TooComplex beyond the budgets
    of `dicom.walk` or INFLATED_PIXELS, and OSError.
    """
    file.seek(start_of_dataset(file))
    is_deflated = transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    source = DeflatedSource(file, INFLATED_PIXELS) if is_deflated else FileSource(file)
    implicit, little = transfer_syntax_uid == ImplicitVRLittleEndian, transfer_syntax_uid != ExplicitVRBigEndian
    digest = hashlib.sha256()
    for element in elements(source, implicit, little, Budget(), _WANTED):
        value = bytes(element.data[element.start : element.end])
        digest.update(b"%08x%s\n" % (element.tag, value.strip(b" \0") if element.tag in _TEXTS else value))
    if source.pixels is not None:
        position, implicit = source.pixels
        _Pixels(source, position, implicit, little, digest).read()
    return digest.hexdigest()


class _Digest(Protocol):
    """What a hash of hashlib is."""

    def update(self, data: bytes | memoryview, /) -> None: ...


class _Pixels:
    """Reads the elements of group 7FE0, which end a dataset, and digests their values."""

    def __init__(self, source: FileSource, position: int, implicit: bool, little: bool, digest: _Digest) -> None:
        self._source = source
        self._rest = memoryview(bytes(source.data[position:]))
        self._implicit = implicit
        self._order = "<" if little else ">"
        self._digest = digest

    def read(self) -> None:
        while len(head := self._bytes(8)) == 8:
            group, number, vr, short = struct.unpack(self._order + "HH2sH", head)
            tag = group << 16 | number
            if group != _PIXEL_GROUP:  # padding, or a signature: what follows is no pixel data
                return
            explicit = not self._implicit and b"AA" <= vr <= b"ZZ"
            if not explicit:
                [length] = struct.unpack(self._order + "4xI", head)
            elif vr in _LONG_VRS:
                [length] = struct.unpack(self._order + "I", self._bytes(4, whole=True))
            else:
                length = short
            counts = tag in _PIXEL_DATA
            if counts:
                self._digest.update(b"%08x" % tag)
            if length == UNDEFINED:
                self._read_fragments(counts)
            else:
                self._pass(length, counts)

    def _read_fragments(self, counts: bool) -> None:
        """The fragments of encapsulated pixel data (PS3.5 A.4), without the Basic Offset Table."""
        is_table = True
        while True:
            group, number, length = struct.unpack(self._order + "HHI", self._bytes(8, whole=True))
            if group != _ITEMS or number != _ITEM:
                return
            self._pass(length, counts and not is_table)
            is_table = False

    def _pass(self, length: int, counts: bool) -> None:
        while length and (piece := self._bytes(min(length, _PIECE))):
            length -= len(piece)
            if counts:
                self._digest.update(piece)

    def _bytes(self, count: int, *, whole: bool = False) -> memoryview | bytes:
        """The next bytes, fewer at the end. Raises EndOfBytes where `whole` and there are fewer."""
        while len(self._rest) < count and (more := self._source.read(_PIECE)):
            self._rest = memoryview(bytes(self._rest) + more)
        taken, self._rest = self._rest[:count], self._rest[count:]
        if whole and len(taken) < count:
            raise EndOfBytes
        return taken
