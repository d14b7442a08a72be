"""multipart/related (RFC 2387), written and read piece by piece: a message is never whole in memory."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator

_LARGEST_HEADERS = 1 << 13


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
    """Reads a message from its stream, part by part."""

    def __init__(self, stream: AsyncIterator[bytes], boundary: str, largest_part: int) -> None:
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary.encode()
        self._largest_part = largest_part
        self._buffer = bytearray(b"\r\n")  # so that the first delimiter is like the others

    async def parts(self) -> AsyncIterator[tuple[dict[str, str], bytes | None]]:
        """Headers (names in lower case) and content of each part; None in place of a content above the limit.

        Raises Malformed.
        """
        await self._skip_to(self._delimiter, 0)
        while await self._has_part():
            head = await self._skip_to(b"\r\n\r\n", _LARGEST_HEADERS)
            if head is None:
                raise Malformed("the headers of a part are too long")
            content = await self._skip_to(self._delimiter, self._largest_part)
            yield _headers(head), content

    async def _has_part(self) -> bool:
        """False after the last delimiter, which ends with two hyphens (RFC 2046 5.1.1)."""
        while len(self._buffer) < 2:
            await self._more()
        if self._buffer[:2] == b"--":
            return False
        if not self._buffer.lstrip(b" \t").startswith(b"\r\n"):
            raise Malformed("a delimiter is followed by something else")
        return True  # the end of the line stays: a part without headers has \r\n\r\n here

    async def _skip_to(self, mark: bytes, largest: int) -> bytes | None:
        """The bytes before the mark, None where they exceed `largest`; the mark is skipped."""
        content: bytearray | None = bytearray()
        while True:
            found = self._buffer.find(mark)
            end = found if found >= 0 else max(0, len(self._buffer) - len(mark) + 1)
            if content is not None:
                content += self._buffer[:end]
                if len(content) > largest:
                    content = None
            del self._buffer[: end + (len(mark) if found >= 0 else 0)]
            if found >= 0:
                return bytes(content) if content is not None else None
            await self._more()

    async def _more(self) -> None:
        try:
            self._buffer += await anext(self._stream)
        except StopAsyncIteration:
            raise Malformed("the message is incomplete") from None


def _headers(head: bytes) -> dict[str, str]:
    lines = [line.partition(b":") for line in head.split(b"\r\n") if line.strip()]
    return {name.strip().lower().decode("latin-1"): value.strip().decode("latin-1") for name, _, value in lines}
