from __future__ import annotations

from pydicom import DataElement, Dataset

from tests.testbed.instances import mr_instance
from worker.dicom.text.tag_lines import MOST_LINES, tag_lines


def _value(ds: Dataset, tag: str) -> str:
    [line] = [line for line in tag_lines(ds) if line.tag == tag]
    return line.value


def test_values_are_shown_as_text_and_what_is_long_private_or_binary_is_cut() -> None:
    ds = mr_instance(1, PatientName="Family^Given", ImageType=["ORIGINAL", "PRIMARY"])
    ds.ImageComments = "x" * 600
    ds.PixelData = bytes(1 << 20)
    block = ds.private_block(0x0029, "SIEMENS CSA", create=True)
    block.add_new(0x10, "LO", "secret")
    ds.add(DataElement(0x00281201, "OW", bytes(512)))
    assert _value(ds, "(0010,0010)") == "Family^Given"
    assert _value(ds, "(0008,0008)") == "ORIGINAL\\PRIMARY"
    assert _value(ds, "(0020,4000)") == "x" * 160 + "…"
    assert _value(ds, "(0029,1010)") == "private, not shown"
    assert _value(ds, "(0028,1201)") == "512 bytes"
    assert "secret" not in str(tag_lines(ds))
    assert [line.name for line in tag_lines(ds) if line.tag == "(0010,0010)"] == ["Patient's Name"]


def test_sequences_are_shown_below_and_never_without_bounds() -> None:
    inner = Dataset()
    for _ in range(20):
        outer = Dataset()
        outer.ReferencedSOPSequence = [inner]
        inner = outer
    assert {line.depth for line in tag_lines(inner)} == set(range(9))
    wide = Dataset()
    item = Dataset()
    item.Rows = 3
    wide.ReferencedSOPSequence = [item] * (2 * MOST_LINES)
    lines = tag_lines(wide)
    assert len(lines) == MOST_LINES
    assert lines[0].value == f"{2 * MOST_LINES:,} items"
    assert (lines[1].value, lines[1].depth) == ("3", 1)
