from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.testbed.instances import encoded, mr_instance
from worker.dicom.sources import TooComplex
from worker.storage.versions import pixel_digest as module
from worker.storage.versions.pixel_digest import pixel_digest

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)


def _file(ds: Dataset, syntax: str) -> bytes:
    ds = dcmread(BytesIO(encoded(ds)))
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _digest(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> str:
    return pixel_digest(BytesIO(_file(ds, syntax)), syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_attributes_do_not_count_in_any_encoding(syntax: str) -> None:
    other = mr_instance(PatientName="Other", PatientID="2", SeriesInstanceUID="1.2.3", EchoTime=5)
    other.add_new(0x7FE10010, "LO", "private, behind the pixels")
    other.DataSetTrailingPadding = bytes(7)
    assert _digest(mr_instance(), syntax) == _digest(other, syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "changes",
    [
        {"PixelData": bytes(512)},
        {"PixelData": bytes(510)},
        {"PixelData": None},
        {"Rows": 8, "Columns": 32},
        {"BitsStored": 16, "HighBit": 15},
        {"PixelRepresentation": 1},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"NumberOfFrames": 2, "Rows": 8},
    ],
)
def test_pixels_and_what_describes_them_count(syntax: str, changes: dict[str, Any]) -> None:
    assert _digest(mr_instance(), syntax) != _digest(mr_instance(**changes), syntax)


def test_one_changed_byte_at_either_end_of_large_pixels_counts() -> None:
    pixels = np.random.default_rng(1).integers(0, 4000, (1500, 1500), np.uint16).tobytes()  # more than a piece
    ends = (b"\xff" + pixels[1:], pixels[:-1] + b"\xff", pixels)
    assert len({_digest(mr_instance(Rows=1500, Columns=1500, PixelData=end)) for end in ends}) == 3


def _encapsulated(fragments: int = 1, table: bool = True, frame: bytes = b"ABCDEFGH" * 4) -> str:
    ds = mr_instance()
    ds.PixelData = encapsulate([frame], fragments_per_frame=fragments, has_bot=table)
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    return _digest(ds, RLELossless)


def test_fragments_and_offset_tables_do_not_count_but_what_they_hold() -> None:
    assert _encapsulated() == _encapsulated(fragments=4) == _encapsulated(table=False)
    assert _encapsulated() != _encapsulated(frame=b"ABCDEFGX" * 4)


def test_a_cut_file_is_told_or_differs() -> None:
    whole = encoded(mr_instance())
    digests = set()
    for cut in (1, 100, 511, 512, 519):
        digests.add(pixel_digest(BytesIO(whole[:-cut]), ExplicitVRLittleEndian))
    assert _digest(mr_instance()) not in digests


def test_a_bomb_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INFLATED_PIXELS", 1 << 20)
    with pytest.raises(TooComplex):
        _digest(mr_instance(Rows=1024, Columns=1024, PixelData=bytes(2 << 20)), DeflatedExplicitVRLittleEndian)
