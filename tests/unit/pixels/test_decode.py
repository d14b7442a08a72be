from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    RLELossless,
)

from tests.testbed.images import UNCOMPRESSED, image, save
from worker.errors import NotAssessable
from worker.pixels import decode as module
from worker.pixels.decode import decode

RNG = np.random.default_rng(1)
GREY8 = RNG.integers(0, 256, (40, 36), np.uint8)
GREY12 = RNG.integers(0, 4096, (40, 36), np.uint16)
SIGNED = RNG.integers(-2048, 2048, (40, 36), np.int16)


def one(path: Path) -> module.DecodedFrame:
    (frame,) = decode(path)
    return frame


@pytest.mark.parametrize("pixels", [GREY8, GREY12, SIGNED, GREY12.astype(np.uint32)], ids=lambda p: p.dtype.name)
@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda uid: uid.keyword)
def test_uncompressed_pixels_come_back(tmp_path: Path, pixels: Any, syntax: str) -> None:
    frame = one(save(image(pixels), tmp_path / "a.dcm", syntax))
    assert (frame.pixels == pixels).all()
    assert (frame.slope, frame.intercept, frame.spacing) == (1.0, 0.0, (1.0, 1.0))
    assert frame.orientation is None
    assert frame.position is None


@pytest.mark.parametrize("pixels", [GREY8, GREY12, SIGNED, GREY8[:5, :7]], ids=lambda p: f"{p.dtype.name}{p.shape}")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=lambda uid: uid.keyword)
def test_plain_frames_are_those_of_pydicoms_decoder(
    tmp_path: Path, pixels: Any, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd: list[dict[str, Any]] = [
        {}, {"BitsStored": 0}, {"BitsStored": 40}, {"PixelRepresentation": 7}, {"SamplesPerPixel": None},
        {"PhotometricInterpretation": "PALETTE COLOR"}, {"PhotometricInterpretation": None}, {"BitsAllocated": 12},
        {"PixelData": pixels.tobytes() + bytes(100)}, {"NumberOfFrames": 1}, {"Columns": pixels.shape[1] - 1},
    ]  # fmt: skip
    read = []
    for number, attributes in enumerate(odd):
        ds = module.open_image(save(image(pixels), tmp_path / f"{number}.dcm", syntax))
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        answers = []
        for plain in (module._plain_frame, lambda _ds: None):
            with monkeypatch.context() as patch:
                patch.setattr(module, "_plain_frame", plain)
                try:
                    answers.append(next(module.decoded_samples(ds)))
                except NotAssessable as refusal:
                    answers.append(refusal.reason)
        first, second = answers
        np.testing.assert_array_equal(first, second)
        assert isinstance(first, str) or (first.dtype == second.dtype and first.flags.writeable)
        read.append(not isinstance(first, str))
    assert read[0]
    assert not all(read)


def test_a_deflated_file_is_recognised_wherever_its_syntax_is_named(tmp_path: Path) -> None:
    """Its group 2 may be longer than any beginning of a file that one might look at."""
    ds = image(GREY8)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = "1.2.3", bytes(100_000)
    assert (one(save(ds, tmp_path / "a.dcm", DeflatedExplicitVRLittleEndian)).pixels == GREY8).all()
    ds.PatientComments = f"sent as {DeflatedExplicitVRLittleEndian}"
    assert (one(save(ds, tmp_path / "b.dcm", ExplicitVRLittleEndian)).pixels == GREY8).all()


@pytest.mark.parametrize("pixels", [GREY8, GREY12, SIGNED], ids=lambda p: p.dtype.name)
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.keyword)
def test_lossless_pixels_come_back(tmp_path: Path, pixels: Any, syntax: str) -> None:
    assert (one(save(image(pixels), tmp_path / "a.dcm", syntax)).pixels == pixels).all()


def test_twelve_bits_in_sixteen_come_back_from_jpeg_ls(tmp_path: Path) -> None:
    ds = image(GREY12, BitsStored=12, HighBit=11)
    assert (one(save(ds, tmp_path / "a.dcm", JPEGLSLossless)).pixels == GREY12).all()


@pytest.mark.usefixtures("dcmcjpeg")
@pytest.mark.parametrize("pixels", [GREY8, GREY12, SIGNED], ids=lambda p: p.dtype.name)
@pytest.mark.parametrize("process", ["+e1", "+el"], ids=["selection-value-1", "process-14"])
def test_jpeg_lossless_pixels_come_back(tmp_path: Path, pixels: Any, process: str) -> None:
    path = save(image(pixels), tmp_path / "a.dcm")
    subprocess.run(["dcmcjpeg", process, path, tmp_path / "b.dcm"], check=True)
    assert (one(tmp_path / "b.dcm").pixels == pixels).all()


@pytest.mark.usefixtures("dcmcjpeg")
@pytest.mark.parametrize("encode", [["dcmcrle"], ["dcmcjpls"], ["dcmcjpls", "+en", "+md", "2"]], ids=" ".join)
def test_what_dcmtk_encodes_comes_back(tmp_path: Path, encode: list[str]) -> None:
    path = save(image(GREY12, BitsStored=12, HighBit=11), tmp_path / "a.dcm")
    subprocess.run([*encode, path, tmp_path / "b.dcm"], check=True)
    allowed = 2 if "+en" in encode else 0
    assert np.abs(one(tmp_path / "b.dcm").pixels.astype(int) - GREY12).max() <= allowed


@pytest.mark.usefixtures("dcmcjpeg")
@pytest.mark.parametrize(("process", "bits"), [("+eb", 8), ("+ee", 12)], ids=["baseline", "extended-12-bit"])
def test_lossy_jpeg_is_read_as_dcmtk_reads_it(tmp_path: Path, process: str, bits: int) -> None:
    wave = np.add.outer(np.sin(np.arange(64) / 9), np.cos(np.arange(48) / 7)) / 4 + 0.5
    pixels = (wave * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    path = save(image(pixels, BitsStored=bits, HighBit=bits - 1), tmp_path / "a.dcm")
    subprocess.run(["dcmcjpeg", process, path, tmp_path / "b.dcm"], check=True)
    subprocess.run(["dcmdjpeg", tmp_path / "b.dcm", tmp_path / "c.dcm"], check=True)
    reference, lossy = one(tmp_path / "c.dcm").pixels, one(tmp_path / "b.dcm").pixels
    assert np.abs(lossy.astype(int) - reference).max() <= 1
    assert np.abs(lossy.astype(int) - pixels).max() < 2**bits / 20


def test_twelve_bit_sign_is_extended(tmp_path: Path) -> None:
    ds = image((SIGNED.view(np.uint16) & 0x0FFF).view(np.int16), BitsStored=12, HighBit=11)
    assert (one(save(ds, tmp_path / "a.dcm")).pixels == SIGNED).all()


def test_bits_stored_that_lie_lose_nothing(tmp_path: Path) -> None:
    bright = GREY12 * np.uint16(16)
    assert (one(save(image(bright, BitsStored=10, HighBit=9), tmp_path / "a.dcm")).pixels == bright).all()


@pytest.mark.parametrize("planar", [0, 1])
def test_grey_stored_as_rgb_is_the_same_grey(tmp_path: Path, planar: int) -> None:
    rgb = np.stack([GREY8] * 3, axis=-1)
    ds = image(rgb, PlanarConfiguration=planar)
    ds.PixelData = (np.moveaxis(rgb, -1, 0) if planar else rgb).tobytes()
    frame = one(save(ds, tmp_path / "a.dcm"))
    assert frame.pixels.dtype == np.uint8
    assert (frame.pixels == GREY8).all()


def test_ybr_is_its_luma(tmp_path: Path) -> None:
    ybr = np.stack([GREY8, np.full_like(GREY8, 128), np.full_like(GREY8, 128)], axis=-1)
    frame = one(save(image(ybr, PhotometricInterpretation="YBR_FULL"), tmp_path / "a.dcm"))
    assert (frame.pixels == GREY8).all()


def test_palette_is_looked_up(tmp_path: Path) -> None:
    ds = image(GREY8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(ds, f"{colour}PaletteColorLookupTableData", bytes(range(255, -1, -1)))
    assert (one(save(ds, tmp_path / "a.dcm")).pixels == 255 - GREY8).all()


def test_monochrome1_is_bright_where_it_is_low(tmp_path: Path) -> None:
    ds = image(GREY12, PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=5)
    frame = one(save(ds, tmp_path / "a.dcm"))
    assert (frame.slope, frame.intercept) == (-2.0, -5.0)


@pytest.mark.parametrize("slope", ["0", "nan", "1e300", "abc", ""])
def test_unusable_rescale_is_left_out(tmp_path: Path, slope: str) -> None:
    raw = _with_raw(image(GREY12, RescaleIntercept=0), "RescaleSlope", slope)
    frame = one(save(raw, tmp_path / "a.dcm"))
    assert (frame.slope, frame.intercept) == (1.0, 0.0)


@pytest.mark.parametrize("spacing", ["0\\0", "-1\\1", "1\\nan", "a\\b", "1", "1\\1000", ""])
def test_nonsense_spacing_is_no_spacing(tmp_path: Path, spacing: str) -> None:
    frame = one(save(_with_raw(image(GREY12), "PixelSpacing", spacing), tmp_path / "a.dcm"))
    assert frame.spacing == (1.0, 1.0)


def test_aspect_ratio_stands_in_for_spacing(tmp_path: Path) -> None:
    assert one(save(image(GREY12, PixelAspectRatio=[2, 1]), tmp_path / "a.dcm")).spacing == (2.0, 1.0)


@pytest.mark.parametrize(
    "cosines", ["1\\0\\0\\1\\0\\0", "0\\0\\0\\0\\0\\0", "1\\0\\0\\0\\1", "x\\0\\0\\0\\1\\0", "9\\0\\0\\0\\9\\0"]
)
def test_nonsense_orientation_is_no_orientation(tmp_path: Path, cosines: str) -> None:
    frame = one(save(_with_raw(image(GREY12), "ImageOrientationPatient", cosines), tmp_path / "a.dcm"))
    assert frame.orientation is None


def test_padding_becomes_the_darkest_value(tmp_path: Path) -> None:
    pixels = np.maximum(SIGNED, -100)
    pixels[:3] = -2000
    ds = image(pixels, PixelPaddingValue=-2000)
    ds["PixelPaddingValue"].VR, ds["PixelPaddingValue"].value = "US", 63536  # the same bits, as some write them
    frame = one(save(ds, tmp_path / "a.dcm"))
    assert frame.pixels.min() == -100
    assert (frame.pixels[3:] == pixels[3:]).all()


def test_padding_of_inverted_grey_is_dark_too(tmp_path: Path) -> None:
    pixels = np.maximum(GREY12, 9)
    pixels[:3] = 0
    frame = one(save(image(pixels, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1"), tmp_path / "a.dcm"))
    assert (frame.pixels[:3] == pixels.max()).all()


@pytest.mark.parametrize("text", ["mr", " MR ", "Mr\0"])
def test_a_modality_is_the_same_in_small_letters(tmp_path: Path, text: str) -> None:
    assert one(save(_with_raw(image(GREY12), "Modality", text), tmp_path / "a.dcm")).modality == "MR"


def test_text_in_an_impossible_character_set_does_not_matter(tmp_path: Path) -> None:
    ds = _with_raw(image(GREY12), "SpecificCharacterSet", "ISO_IR 999\\GARBAGE")
    assert (one(save(ds, tmp_path / "a.dcm")).pixels == GREY12).all()


def test_enhanced_frames_have_their_own_geometry_and_scale(tmp_path: Path) -> None:
    frames = np.stack([GREY12, GREY12 // 2, GREY12 // 3])
    ds = image(frames, NumberOfFrames=3, SOPClassUID=EnhancedMRImageStorage)
    ds.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[_item(PixelSpacing=[0.5, 0.75])],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[0, 0, 5 * index])],
            PixelValueTransformationSequence=[_item(RescaleSlope=index + 1, RescaleIntercept=-index)],
        )
        for index in range(3)
    ]
    decoded = decode(save(ds, tmp_path / "a.dcm"))
    assert [frame.frame_number for frame in decoded] == [1, 2, 3]
    assert [frame.position for frame in decoded] == [(0, 0, 0), (0, 0, 5), (0, 0, 10)]
    assert [(frame.slope, frame.intercept) for frame in decoded] == [(1, 0), (2, -1), (3, -2)]
    assert {frame.spacing for frame in decoded} == {(0.5, 0.75)}
    assert all((frame.pixels == pixels).all() for frame, pixels in zip(decoded, frames, strict=True))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_multiframe_capture_comes_back(tmp_path: Path, syntax: str) -> None:
    frames = np.stack([GREY8, 255 - GREY8])
    ds = image(frames, NumberOfFrames=2, SOPClassUID=MultiFrameGrayscaleByteSecondaryCaptureImageStorage)
    decoded = decode(save(ds, tmp_path / "a.dcm", syntax))
    assert (np.stack([frame.pixels for frame in decoded]) == frames).all()


def _bytes(path: Path, change: Any) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def _plain(path: Path, **attributes: Any) -> Path:
    return save(image(GREY12, **attributes), path)


def _compressed(path: Path) -> Path:
    return save(image(GREY12), path, JPEG2000Lossless)


def _without(path: Path, keyword: str) -> Path:
    ds = image(GREY12)
    del ds[keyword]
    return save(ds, path)


def _other_codestream(path: Path) -> Path:
    """A header of 40 x 36 around a codestream that says 4,000,000,000 rows."""
    ds = dcmread(_compressed(path))
    at = ds.PixelData.index(b"\xff\x4f\xff\x51") + 8
    ds.PixelData = ds.PixelData[: at + 4] + struct.pack(">I", 4_000_000_000) + ds.PixelData[at + 8 :]
    ds.save_as(path)
    return path


def _second_frame_is_a_bomb(path: Path) -> Path:
    """Two frames, the second of which claims 65,535 x 65,535 after a fill byte."""
    ds = image(np.stack([GREY8, GREY8]), NumberOfFrames=2)
    save(ds, path, JPEGLSLossless)
    first = next(generate_frames(ds.PixelData, number_of_frames=2))
    bomb = b"\xff\xd8\xff\xff\xf7\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00"
    ds.PixelData = encapsulate([first, bomb])
    ds.save_as(path, enforce_file_format=True)
    return path


def _fewer_frames(path: Path) -> Path:
    ds = dcmread(_compressed(path))
    ds.NumberOfFrames = 4
    ds.save_as(path)
    return path


def _garbage_codestream(path: Path, syntax: str) -> Path:
    ds = image(GREY12)
    ds.PixelData = encapsulate([bytes(RNG.integers(0, 255, 500, np.uint8))])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)
    return path


FAULTS = {
    "empty file": ("not-dicom", lambda p: _bytes(_plain(p), lambda raw: b"")),
    "text file": ("not-dicom", lambda p: _bytes(_plain(p), lambda raw: b"CANARY^NAME was here\n" * 50)),
    "no preamble": ("not-dicom", lambda p: _bytes(_plain(p), lambda raw: raw[132:])),
    "cut in the header": ("pixel-data-truncated", lambda p: _bytes(_plain(p), lambda raw: raw[:150])),
    "cut in the data set": ("no-pixel-data", lambda p: _bytes(_plain(p), lambda raw: raw[:-2920])),
    "cut in the pixels": ("pixel-data-truncated", lambda p: _bytes(_plain(p), lambda raw: raw[:-100])),
    "cut in compressed pixels": ("pixel-data-truncated", lambda p: _bytes(_compressed(p), lambda raw: raw[:-100])),
    "pixel data too short": ("pixel-data-truncated", lambda p: _plain(p, PixelData=b"\0" * 100)),
    "no pixel data": ("no-pixel-data", lambda p: _without(p, "PixelData")),
    "empty pixel data": ("no-pixel-data", lambda p: _plain(p, PixelData=b"")),
    "no rows": ("pixel-data-unreadable", lambda p: _without(p, "Rows")),
    "zero rows": ("pixel-data-unreadable", lambda p: _plain(p, Rows=0)),
    "thirteen bits": ("pixel-data-unreadable", lambda p: _plain(p, BitsAllocated=13)),
    "seven samples": ("pixel-data-unreadable", lambda p: _plain(p, SamplesPerPixel=7)),
    "no photometric": ("pixel-data-unreadable", lambda p: _without(p, "PhotometricInterpretation")),
    "bomb": ("image-too-large", lambda p: _plain(p, Rows=65535, Columns=65535)),
    "bomb of frames": ("image-too-large", lambda p: _plain(p, NumberOfFrames=2_000_000)),
    "bomb in the codestream": ("pixel-data-unreadable", _other_codestream),
    "bomb in the second frame": ("pixel-data-unreadable", _second_frame_is_a_bomb),
    "fewer frames": ("pixel-data-truncated", _fewer_frames),
    "garbage as JPEG 2000": ("pixel-data-unreadable", lambda p: _garbage_codestream(p, JPEG2000Lossless)),
    "garbage as JPEG-LS": ("pixel-data-unreadable", lambda p: _garbage_codestream(p, JPEGLSLossless)),
    "garbage as RLE": ("pixel-data-unreadable", lambda p: _garbage_codestream(p, RLELossless)),
    "garbage as HTJ2K": ("pixel-data-unreadable", lambda p: _garbage_codestream(p, HTJ2KLossless)),
    "video": ("unsupported-transfer-syntax", lambda p: _garbage_codestream(p, "1.2.840.10008.1.2.4.102")),
    "report": ("not-an-image", lambda p: _plain(p, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_file_has_a_reason_without_identifiers(tmp_path: Path, fault: str) -> None:
    reason, make = FAULTS[fault]
    with pytest.raises(NotAssessable) as raised:
        decode(make(tmp_path / "CANARY.dcm"))
    assert raised.value.reason == reason
    assert raised.value.detail.endswith(".")
    assert "CANARY" not in str(raised.value)
    assert not any(character.isdigit() for character in raised.value.detail)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("make", [_other_codestream, _second_frame_is_a_bomb])
def test_bomb_in_a_codestream_never_reaches_its_decoder(tmp_path: Path, make: Any) -> None:
    with pytest.raises(NotAssessable, match="size of the compressed image differs from its header"):
        decode(make(tmp_path / "a.dcm"))


def test_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM_DATASET_BYTES", 1 << 20)
    path = save(image(GREY12), tmp_path / "a.dcm", DeflatedExplicitVRLittleEndian)
    raw = path.read_bytes()
    start = 144 + struct.unpack("<I", raw[140:144])[0]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(raw[:start] + deflate.compress(bytes(1 << 26)) + deflate.flush())
    with pytest.raises(NotAssessable, match="image-too-large"):
        decode(path)


def test_missing_file_is_the_disks_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "gone.dcm")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    syntax=st.sampled_from([ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]),
    damage=st.lists(st.tuples(st.integers(132, 1200), st.integers(0, 255)), min_size=1, max_size=6),
    end=st.one_of(st.none(), st.integers(140, 1500)),
)
def test_damaged_bytes_give_frames_or_a_reason(
    tmp_path: Path, syntax: str, damage: list[tuple[int, int]], end: int | None
) -> None:
    raw = bytearray(save(image(GREY12), tmp_path / "a.dcm", syntax).read_bytes())
    for place, value in damage:
        raw[place] = value
    path = tmp_path / "b.dcm"
    path.write_bytes(raw[:end])
    try:
        decoded = decode(path)
    except NotAssessable:
        return
    assert all(frame.pixels.ndim == 2 for frame in decoded)


def _item(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def _with_raw(ds: Dataset, keyword: str, text: str) -> Dataset:
    """Set an element to bytes that pydicom would refuse to write as a value."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(keyword) or 0)
    value = text.encode() + b" " * (len(text) % 2)
    ds[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    return ds
