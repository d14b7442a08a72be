"""Where the bytes of an encoded dataset come from: memory, a file or a deflated file, no further than needed."""

from __future__ import annotations

import zlib
from typing import BinaryIO

INFLATED_BYTES = 16 << 20  # of a deflated dataset; the elements before the pixels take far less
HELD_BYTES = 32 << 20  # of a file at once, for an element that has to be there as a whole: functional groups take 13
_FIRST_READ, _LONGEST_READ = 1 << 16, 1 << 22


class TooComplex(Exception):
    """The dataset exceeds a budget."""


class EndOfBytes(Exception):
    """The bytes end here."""


class Source:
    """Encoded bytes, wholly in memory from `position` on."""

    def __init__(self, data: bytes | bytearray, position: int = 0) -> None:
        self.data = data
        self.position = position
        self.origin = -position
        self.is_whole = True
        # Once the elements were walked: where in `data` the pixel data begin, and whether they show no VR.
        self.pixels: tuple[int, bool] | None = None

    def refill(self, position: int) -> int:
        """Read on, and forget what lies before `position`; where that is now. Raises TooComplex."""
        raise EndOfBytes


class FileSource(Source):
    """A file, read from its current position as far as needed."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(b"")
        self._file = file
        self._size = _FIRST_READ
        self._base = file.tell()
        self.is_whole = False

    def refill(self, position: int) -> int:
        if position:
            self._size = _FIRST_READ
        rest = self.data[position:]
        if len(rest) >= HELD_BYTES:
            raise TooComplex("bytes of an element")
        self._skip(max(0, position - len(self.data)))
        more = self.read(min(self._size, HELD_BYTES - len(rest)))
        self.origin += position
        self._size = max(2 * self._size, len(rest))  # doubled, so that what is walked again costs no more than twice
        self.data = rest + more
        self.is_whole = not more
        return 0

    def _skip(self, count: int) -> None:
        if count:
            self._file.seek(count, 1)

    def read(self, size: int) -> bytes:
        """The bytes behind `data`, no more than `size`; none at the end."""
        return self._file.read(size)


class DeflatedSource(FileSource):
    """A deflated dataset, inflated as far as needed: kilobytes may inflate to gigabytes (PS3.5 A.5)."""

    def __init__(self, file: BinaryIO, longest: int = INFLATED_BYTES) -> None:
        super().__init__(file)
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._left = longest

    def _skip(self, count: int) -> None:
        while count and (inflated := self.read(min(count, _LONGEST_READ))):
            count -= len(inflated)

    def read(self, size: int) -> bytes:
        inflated = b""
        while not inflated and not self._inflate.eof:
            deflated = self._inflate.unconsumed_tail or self._file.read(_FIRST_READ)
            if not deflated:
                break
            inflated = self._inflate.decompress(deflated, size)
        self._left -= len(inflated)
        if self._left < 0:
            raise TooComplex("inflated bytes")
        return inflated
