"""Values that their representation forbids."""

from __future__ import annotations

import warnings
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from tests.testbed.instances import encoded, mr_instance
from worker.dicom.header import read_header
from worker.dicom.odd_values import add_value, ignore_value_warnings, remove_unreadable

ODD = [b"  ", b"\0\0", b"??", b"--", b"ui", b"cs", b"lo"]


def with_vr(content: bytes, keyword: str, vr: bytes) -> bytes:
    """A file in Explicit VR Little Endian with another VR of an element."""
    tag = Tag(keyword)
    start = content.index(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little"), 300)
    return content[: start + 4] + vr + content[start + 6 :]


def test_a_value_is_added_as_it_is_or_not_at_all() -> None:
    ds = Dataset()
    with warnings.catch_warnings(action="error"):
        add_value(ds, "StudyDate", "1.3.2026")
        add_value(ds, "StudyID", "much longer than sixteen characters")
        add_value(ds, "SeriesNumber", "one")
    assert (ds.StudyDate, ds.StudyID) == ("1.3.2026", "much longer than sixteen characters")
    assert ds.SeriesNumber is None


def test_an_element_that_cannot_be_read_is_removed_and_the_others_stay() -> None:
    ds = Dataset()
    ds.Columns = 16
    ds[Tag("Rows")] = RawDataElement(Tag("Rows"), "US", 1, b"\1", 0, False, True)
    remove_unreadable(ds)
    assert list(ds.keys()) == [Tag("Columns")]


def test_a_warning_that_quotes_a_value_is_not_shown() -> None:
    with warnings.catch_warnings(action="error"), ignore_value_warnings():
        warnings.warn("CANARY^NAME", stacklevel=1)


@pytest.mark.parametrize("vr", ODD)
@pytest.mark.parametrize("keyword", ["ImageType", "SOPInstanceUID", "PatientID", "ReferringPhysicianName", "Rows"])
def test_an_element_with_an_odd_vr_is_read_as_dcmtk_reads_it(vr: bytes, keyword: str) -> None:
    ds = mr_instance()  # Image Type is its first element, Referring Physician's Name is empty
    odd = with_vr(encoded(ds), keyword, vr)
    for read in (read_header(BytesIO(odd)), dcmread(BytesIO(odd))):
        for element in ds:
            if element.keyword != "PixelData":
                assert read[element.tag].value == element.value, element.keyword
    assert dcmread(BytesIO(odd)).PixelData == ds.PixelData


def test_an_implicit_element_among_explicit_ones_is_still_read() -> None:
    content = encoded(mr_instance())
    start = content.index(b"\x08\x00\x60\x00CS", 300)
    implicit = content[: start + 4] + b"\2\0\0\0" + content[start + 8 :]
    for read in (read_header(BytesIO(implicit)), dcmread(BytesIO(implicit))):
        assert (read.Modality, read.PatientID) == ("MR", "ID-a")
