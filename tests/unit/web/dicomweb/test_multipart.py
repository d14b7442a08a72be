"""multipart/related messages, written and read in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.web.dicomweb.multipart import Malformed, MultipartReader, boundary_of, content_type, encode

BOUNDARY = "frontier"


def read(message: bytes, size: int = 7) -> list[tuple[dict[str, str], bytes]]:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(message), size):
            yield message[start : start + size]

    async def parts() -> list[tuple[dict[str, str], bytes]]:
        reader, found = MultipartReader(stream(), BOUNDARY), []
        while (headers := await reader.next_part()) is not None:
            pieces: list[bytes] = []

            async def append(piece: bytes, pieces: list[bytes] = pieces) -> None:
                assert len(piece) <= size + len(BOUNDARY) + 4, "it is given on as it comes"
                pieces.append(piece)

            await reader.read(append)
            found.append((headers, b"".join(pieces)))
        return found

    return asyncio.run(parts())


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.integers(1, 50))
def test_what_is_written_is_read_whatever_the_pieces(contents: list[bytes], size: int) -> None:
    contents = [content.replace(b"--" + BOUNDARY.encode(), b"") for content in contents]
    message = b"".join(encode([("image/jls", [content[:10], content[10:]]) for content in contents], BOUNDARY))
    assert read(message, size) == [({"content-type": "image/jls"}, content) for content in contents]


def test_a_preamble_and_a_part_without_headers_are_allowed() -> None:
    message = f"preamble\r\n--{BOUNDARY} \r\n\r\ncontent\r\n--{BOUNDARY}--epilogue".encode()
    assert read(message) == [({}, b"content")]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"no delimiter",
        f"--{BOUNDARY}".encode(),
        f"--{BOUNDARY}\r\n\r\nhalf".encode(),
        f"--{BOUNDARY}x\r\n\r\n\r\n--{BOUNDARY}--".encode(),
        f"--{BOUNDARY}\r\n{'x' * 20_000}\r\n\r\n--{BOUNDARY}--".encode(),
    ],
)
def test_a_message_that_is_none_is_refused(message: bytes) -> None:
    with pytest.raises(Malformed):
        read(message, size=1000)


def test_a_boundary_is_read_from_the_content_type() -> None:
    assert boundary_of(content_type("application/dicom", BOUNDARY)) == BOUNDARY
    assert boundary_of('multipart/related; BOUNDARY = "a b"; type=x') == "a b"
    for header in ("multipart/related", "multipart/related; boundary=", ""):
        with pytest.raises(Malformed):
            boundary_of(header)
