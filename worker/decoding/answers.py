"""The answers of decoder processes: held in memory while small, else in a file without a name; and a cache of them."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

from worker.decoding.wire import PIECE
from worker.errors import NotAssessable

IN_MEMORY_BYTES = 4 << 20  # of an answer
LARGEST_ANSWER_BYTES = 1 << 30
_HELD_BYTES = 2 << 30  # of all answers that clients are still reading
_CACHED_BYTES = 64 << 20


class Busy(Exception):
    """Too many requests for pictures at once: to be answered 503, try again later."""


class Budget:
    """Counts the bytes of all answers that are held."""

    def __init__(self, maximum_bytes: int = _HELD_BYTES) -> None:
        self._left = maximum_bytes
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Raises Busy where that many bytes are not left."""
        with self._lock:
            if count > self._left:
                raise Busy
            self._left -= count

    def give_back(self, count: int) -> None:
        with self._lock:
            self._left += count


class Answer:
    """The parts of an answer. Its room is given back when nobody refers to it any more."""

    def __init__(self, budget: Budget, folder: Path) -> None:
        self._budget = budget
        self._file: IO[bytes] = SpooledTemporaryFile(IN_MEMORY_BYTES, "w+b", dir=str(folder))  # noqa: SIM115 closed below
        self._taken = [0]
        self._lengths: list[int] = []
        self._release = weakref.finalize(self, _release, self._file, budget, self._taken)

    def begin_part(self, length: int) -> None:
        """Raises NotAssessable for an answer that is too large; Busy where others hold too much."""
        if self.size + length > LARGEST_ANSWER_BYTES:
            raise NotAssessable("image-too-large", "An image is larger than this worker gives out at once.")
        self._budget.take(length)
        self._taken[0] += length
        self._lengths.append(length)

    def write(self, piece: bytes) -> None:
        self._file.write(piece)

    @property
    def size(self) -> int:
        return self._taken[0]

    def parts(self) -> Iterator[Iterator[bytes]]:
        """Each part, in pieces; a part must be read before the next part."""
        self._file.seek(0)
        for length in self._lengths:
            yield self._pieces(length)

    def whole(self) -> Iterator[bytes]:
        """All parts, one after the other, in pieces."""
        for part in self.parts():
            yield from part

    def content(self) -> bytes:
        return b"".join(self.whole())

    def close(self) -> None:
        self._release()

    def _pieces(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self._file.read(min(length, PIECE))
            length -= len(piece)
            yield piece


def _release(file: IO[bytes], budget: Budget, taken: list[int]) -> None:
    file.close()
    budget.give_back(taken[0])
    taken[0] = 0


class Cache:
    """The pictures that were made last, up to a number of bytes."""

    def __init__(self, maximum_bytes: int = _CACHED_BYTES) -> None:
        self._maximum = maximum_bytes
        self._pictures: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.size = 0

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def add(self, key: Hashable, picture: bytes) -> None:
        if len(picture) > IN_MEMORY_BYTES:
            return
        with self._lock:
            self.size += len(picture) - len(self._pictures.pop(key, b""))
            self._pictures[key] = picture
            while self.size > self._maximum:
                self.size -= len(self._pictures.popitem(last=False)[1])
