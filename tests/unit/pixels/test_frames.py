"""Frames for a viewer: of every codec, as allocated, and as pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.testbed.images import image, save
from worker.errors import NotAssessable
from worker.pixels.frames import explicit_little_endian, open_file
from worker.pixels.windowing import Window

FRAMES = np.random.default_rng(3).integers(0, 4000, (3, 96, 64), np.uint16)
SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless,
    JPEG2000Lossless, JPEGLSLossless,
]  # fmt: skip


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_frames_of_every_syntax_are_the_same_little_endian_bytes(tmp_path: Path, syntax: str) -> None:
    opened = open_file(save(image(FRAMES, NumberOfFrames=3), tmp_path / "a.dcm", syntax))
    assert opened.frames == 3
    assert list(opened.native_frames([3, 1])) == [FRAMES[2].tobytes(), FRAMES[0].tobytes()]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_whole_file_is_written_in_explicit_little_endian(tmp_path: Path, syntax: str) -> None:
    path = save(image(FRAMES, NumberOfFrames=3), tmp_path / "a.dcm", syntax)
    written = dcmread(io.BytesIO(b"".join(explicit_little_endian(path))))
    assert written.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert written.PixelData == FRAMES.tobytes()
    original = dcmread(path)
    same = {one.tag for one in original} - {original["PixelData"].tag}
    assert [written[tag].value for tag in sorted(same)] == [original[tag].value for tag in sorted(same)]


def test_frames_as_sent_are_the_streams_themselves(tmp_path: Path) -> None:
    opened = open_file(save(image(FRAMES, NumberOfFrames=3), tmp_path / "a.dcm", JPEG2000Lossless))
    streams = list(opened.encapsulated_frames([2, 2, 1]))
    assert streams[0] == streams[1] != streams[2]
    assert {one[:4] for one in streams} == {b"\xff\x4f\xff\x51"}


def test_colours_stay_colours(tmp_path: Path) -> None:
    colours = np.random.default_rng(4).integers(0, 255, (96, 64, 3), np.uint8)
    opened = open_file(save(image(colours), tmp_path / "a.dcm"))
    assert next(opened.native_frames([1])) == colours.tobytes()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(opened.render(1, "PNG")))), colours)


def test_a_palette_stays_numbers_and_is_shown_in_its_colours(tmp_path: Path) -> None:
    numbers = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ds = image(numbers, PhotometricInterpretation="PALETTE COLOR")
    ramp = (np.arange(256, dtype=np.uint16) << 8).tobytes()
    for colour, table in (("Red", ramp), ("Green", bytes(512)), ("Blue", bytes(512))):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", table)
    opened = open_file(save(ds, tmp_path / "a.dcm"))
    assert next(opened.native_frames([1])) == numbers.tobytes()
    shown = np.asarray(Image.open(io.BytesIO(opened.render(1, "PNG"))))
    assert np.array_equal(shown[..., 0], numbers)
    assert not shown[..., 1:].any()


def test_a_picture_is_windowed_inverted_and_made_small(tmp_path: Path) -> None:
    plain = open_file(save(image(FRAMES[0], RescaleSlope=2, RescaleIntercept=-100), tmp_path / "a.dcm"))
    shown = np.asarray(Image.open(io.BytesIO(plain.render(1, "PNG", Window(4000, 4000)))), float)
    real = FRAMES[0] * 2.0 - 100
    assert np.abs(shown - np.clip((real - 2000) / 4000, 0, 1) * 255).max() <= 1
    inverted = open_file(save(image(FRAMES[0], PhotometricInterpretation="MONOCHROME1"), tmp_path / "b.dcm"))
    dark = np.asarray(Image.open(io.BytesIO(inverted.render(1, "PNG", Window(2000, 4000)))), float)
    assert dark[FRAMES[0] > 3900].max() < 10
    assert max(Image.open(io.BytesIO(plain.render(1, "JPEG", longest=32, quality=50))).size) == 32


def test_header_that_cannot_be_parsed_is_refused_without_its_value(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [3, 0, 16], b"CANARY"
    path = save(image(FRAMES[0], VOILUTSequence=[table]), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"\x28\x00\x06\x30OW", b"\x28\x00\x06\x30O?"))
    with pytest.raises(NotAssessable) as raised:
        open_file(path).render(1, "PNG")
    assert "CANARY" not in str(raised.value)


def test_what_is_no_image_or_damaged_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no DICOM")
    with pytest.raises(NotAssessable):
        open_file(tmp_path / "x")
    path = save(image(FRAMES, NumberOfFrames=3), tmp_path / "a.dcm", JPEG2000Lossless)
    ds = dcmread(path)
    ds.PixelData = ds.PixelData[:400] + bytes(len(ds.PixelData) - 400)
    ds.save_as(path)
    with pytest.raises(NotAssessable):
        list(open_file(path).native_frames([3]))
