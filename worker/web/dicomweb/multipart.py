"""multipart/related (RFC 2387), written and read piece by piece: no message is ever whole in memory."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator

_LONGEST_HEADER = 1 << 13


class Malformed(Exception):
    """The message is not what its Content-Type says."""


def new_boundary() -> str:
    return uuid.uuid4().hex


def content_type(media_type: str, boundary: str) -> str:
    return f'multipart/related; type="{media_type}"; boundary={boundary}'


def written(parts: Iterable[tuple[str, Iterable[bytes]]], boundary: str) -> Iterator[bytes]:
    """The message of parts, each its Content-Type and its content in pieces."""
    for media_type, pieces in parts:
        yield f"--{boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode()
        yield from pieces
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def boundary_of(header: str) -> str:
    """Raises Malformed where a Content-Type names none."""
    match = re.search(r';\s*boundary\s*=\s*(?:"([^"]{1,200})"|([^;\s]{1,200}))', header, re.IGNORECASE)
    if match is None:
        raise Malformed("the Content-Type names no boundary")
    return match[1] or match[2]


class Reader:
    """Reads a message from its stream, one part after the other."""

    def __init__(self, stream: AsyncIterator[bytes], boundary: str, longest_part: int) -> None:
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary.encode()
        self._longest = longest_part
        self._held = bytearray(b"\r\n")  # so that the first delimiter looks like the others

    async def parts(self) -> AsyncIterator[tuple[dict[str, str], bytes | None]]:
        """Headers, names in small letters, and content; None in place of a content above the limit.

        Raises Malformed.
        """
        await self._skip_to(self._delimiter, 0)
        while await self._another():
            head = await self._skip_to(b"\r\n\r\n", _LONGEST_HEADER)
            if head is None:
                raise Malformed("the head of a part is too long")
            content = await self._skip_to(self._delimiter, self._longest)
            yield _headers(head), content

    async def _another(self) -> bool:
        """After a delimiter: False at the last one, which two hyphens follow (RFC 2046 5.1.1)."""
        while len(self._held) < 2:
            await self._more()
        if self._held[:2] == b"--":
            return False
        if not self._held.lstrip(b" \t").startswith(b"\r\n"):
            raise Malformed("a delimiter is followed by something else")
        return True  # the line's end stays: a part without headers has \r\n\r\n here

    async def _skip_to(self, mark: bytes, longest: int) -> bytes | None:
        """What comes before the mark, None where it is longer than what is kept; the mark is passed."""
        content: bytearray | None = bytearray()
        while True:
            found = self._held.find(mark)
            end = found if found >= 0 else max(0, len(self._held) - len(mark) + 1)
            if content is not None:
                content += self._held[:end]
                if len(content) > longest:
                    content = None
            del self._held[: end + (len(mark) if found >= 0 else 0)]
            if found >= 0:
                return bytes(content) if content is not None else None
            await self._more()

    async def _more(self) -> None:
        try:
            self._held += await anext(self._stream)
        except StopAsyncIteration:
            raise Malformed("the message ends in the middle") from None


def _headers(head: bytes) -> dict[str, str]:
    lines = [line.partition(b":") for line in head.split(b"\r\n") if line.strip()]
    return {name.strip().lower().decode("latin-1"): value.strip().decode("latin-1") for name, _, value in lines}
