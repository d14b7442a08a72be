"""multipart/related (RFC 2387), written and read piece by piece: a message is never whole in memory."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

_LARGEST_HEADERS = 1 << 13
Append = Callable[[bytes], Awaitable[None]]  # takes a piece of a part


class Malformed(Exception):
    """The message is not what its Content-Type says."""


def new_boundary() -> str:
    return uuid.uuid4().hex


def content_type(media_type: str, boundary: str) -> str:
    return f'multipart/related; type="{media_type}"; boundary={boundary}'


def encode(parts: Iterable[tuple[str, Iterable[bytes]]], boundary: str) -> Iterator[bytes]:
    """The message of parts; each is its Content-Type and its content in pieces."""
    for media_type, pieces in parts:
        yield f"--{boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode()
        yield from pieces
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def boundary_of(header: str) -> str:
    """The boundary of a Content-Type. Raises Malformed where it names none."""
    match = re.search(r';\s*boundary\s*=\s*(?:"([^"]{1,200})"|([^;\s]{1,200}))', header, re.IGNORECASE)
    if match is None:
        raise Malformed("the Content-Type names no boundary")
    return match[1] or match[2]


class MultipartReader:
    """Reads a message from its stream: `next_part` and then `read`, until there is no part."""

    def __init__(self, stream: AsyncIterator[bytes], boundary: str) -> None:
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary.encode()
        self._buffer = bytearray(b"\r\n")  # so that the first delimiter is like the others
        self._has_begun = False

    async def next_part(self) -> dict[str, str] | None:
        """The headers of the next part, names in lower case; None after the last. Raises Malformed."""
        if not self._has_begun:
            self._has_begun = True
            await self._skip_to(self._delimiter, _drop)
        if not await self._has_part():
            return None
        head = bytearray()

        async def collect(piece: bytes) -> None:
            head.extend(piece)
            if len(head) > _LARGEST_HEADERS:
                raise Malformed("the headers of a part are too long")

        await self._skip_to(b"\r\n\r\n", collect)
        return _headers(bytes(head))

    async def read(self, append: Append) -> None:
        """Give the content of the part to `append`, piece by piece. Raises Malformed."""
        await self._skip_to(self._delimiter, append)

    async def _has_part(self) -> bool:
        """False after the last delimiter, which ends with two hyphens (RFC 2046 5.1.1)."""
        while len(self._buffer) < 2:
            await self._more()
        if self._buffer[:2] == b"--":
            return False
        if not self._buffer.lstrip(b" \t").startswith(b"\r\n"):
            raise Malformed("a delimiter is followed by something else")
        return True  # the end of the line stays: a part without headers has \r\n\r\n here

    async def _skip_to(self, mark: bytes, append: Append) -> None:
        """Give what is before the mark to `append`; the mark is skipped."""
        while True:
            found = self._buffer.find(mark)
            end = found if found >= 0 else max(0, len(self._buffer) - len(mark) + 1)
            if end:
                await append(bytes(self._buffer[:end]))
            del self._buffer[: end + (len(mark) if found >= 0 else 0)]
            if found >= 0:
                return
            await self._more()

    async def _more(self) -> None:
        try:
            self._buffer += await anext(self._stream)
        except StopAsyncIteration:
            raise Malformed("the message is incomplete") from None


async def _drop(_piece: bytes) -> None:
    pass


def _headers(head: bytes) -> dict[str, str]:
    lines = [line.partition(b":") for line in head.split(b"\r\n") if line.strip()]
    return {name.strip().lower().decode("latin-1"): value.strip().decode("latin-1") for name, _, value in lines}
