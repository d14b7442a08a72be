"""multipart/related messages, written and read in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.web.dicomweb.multipart import Malformed, MultipartReader, boundary_of, content_type, encode

BOUNDARY = "frontier"


def read(message: bytes, size: int = 7, largest: int = 1 << 16) -> list[tuple[dict[str, str], bytes | None]]:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(message), size):
            yield message[start : start + size]

    async def parts() -> list[tuple[dict[str, str], bytes | None]]:
        return [part async for part in MultipartReader(stream(), BOUNDARY, largest).parts()]

    return asyncio.run(parts())


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.integers(1, 50))
def test_what_is_written_is_read_whatever_the_pieces(contents: list[bytes], size: int) -> None:
    contents = [content.replace(b"--" + BOUNDARY.encode(), b"") for content in contents]
    message = b"".join(encode([("image/jls", [content[:10], content[10:]]) for content in contents], BOUNDARY))
    assert read(message, size) == [({"content-type": "image/jls"}, content) for content in contents]


def test_a_content_above_the_limit_is_skipped_and_the_next_is_read() -> None:
    message = b"".join(encode([("a/b", [b"x" * 101]), ("a/b", [b"y" * 100])], BOUNDARY))
    assert [content for _, content in read(message, largest=100)] == [None, b"y" * 100]


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
