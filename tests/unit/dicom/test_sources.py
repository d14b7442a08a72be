"""A header is read and inflated no further than needed."""

from __future__ import annotations

from io import BytesIO

from tests.testbed.bombs import MIB, deflated, element, explicit
from worker.dicom.sources import INFLATED_BYTES, DeflatedSource, FileSource
from worker.dicom.walk import Budget, elements


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
