"""A header is read and inflated no further than needed."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from io import BytesIO

import pytest

from tests.testbed.bombs import MIB, deflated, element, explicit, item, undefined
from worker.dicom.sources import HELD_BYTES, INFLATED_BYTES, DeflatedSource, FileSource, TooComplex
from worker.dicom.walk import Budget, elements

ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 96 * MIB)


def test_a_file_is_read_only_as_far_as_its_header() -> None:
    """And what is skipped by its length is not read at all."""
    data = element(0x00080016, b"UI", b"1.2 ") + element(0x00091001, b"OB", bytes(8 * MIB))
    data += element(0x00100020, b"LO", b"P ") + element(0x7FE00010, b"OB", bytes(8 * MIB))
    file, read = _Counted(data), 0
    found = [
        bytes(one.data[one.start : one.end]) for one in elements(FileSource(file), False, True, Budget(), _PATIENT)
    ]
    read = file.count
    assert found == [b"P "]
    assert read < MIB


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(lambda: undefined(0x00081140, b"SQ", ITEM + bytes(96 * MIB)), id="item-in-a-sequence-to-skip"),
        pytest.param(
            lambda: undefined(0x00081140, b"SQ", item(element(0x00091001, b"OB", bytes(96 * MIB)))), id="deep"
        ),
        pytest.param(lambda: undefined(0x00091001, b"OB", bytes(96 * MIB)), id="fragments"),
        pytest.param(lambda: element(0x00091001, b"OB", b"", 0xFFFFFFFF) + bytes(96 * MIB), id="without-end"),
        pytest.param(lambda: element(0x00081111, b"SQ", ITEM + bytes(96 * MIB)), id="wanted-sequence"),
    ],
)
def test_no_more_of_a_file_is_held_than_the_limit(hostile: Callable[[], bytes]) -> None:
    """Of large datasets only the header is in memory, whatever comes before the pixels."""
    file = BytesIO(explicit(hostile()))
    tracemalloc.start()
    try:
        with pytest.raises(TooComplex, match="bytes"):
            list(elements(FileSource(file), False, True, Budget(), _PATIENT | {0x00081111: 64}))
    finally:
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert highest < 2.5 * HELD_BYTES


_PATIENT = {0x00100020: 64}


class _Counted(BytesIO):
    count = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.count += len(content)
        return content


def test_no_more_is_inflated_than_the_header_needs() -> None:
    data = deflated(explicit() + element(0x7FE00010, b"OB", bytes(64 * MIB)))
    source = DeflatedSource(BytesIO(data))
    assert len(list(elements(source, False, True, Budget(), _PATIENT))) == 1
    assert INFLATED_BYTES - source._left < MIB


def test_a_long_sequence_is_read_by_few_ever_longer_reads() -> None:
    """Each begins the walk of its items anew."""
    reads: list[int] = []

    class Counted(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(size or 0)
            return super().read(size)

    part = struct.pack("<HHI", 0xFFFE, 0xE000, 4096) + bytes(4096)
    content = undefined(0x00081140, b"SQ", part * 1000) + element(0x00100020, b"LO", b"1")
    found = elements(FileSource(Counted(content)), False, True, Budget(), {0x00100020: 64})
    assert [each.tag for each in found] == [0x00100020]
    assert len(reads) < 12
