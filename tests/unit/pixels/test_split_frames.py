"""Each frame of a multi-frame image, in a file of its own, is what it was among the others."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import EnhancedMRImageStorage, JPEGLSLossless, RLELossless

from tests.testbed.instances import encoded, mr_instance
from worker.dicom.standard import STORAGE_SOP_CLASSES
from worker.pixels.decode import decode
from worker.pixels.split_frames import NotDivisible, split_frames


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Five frames, each with its place in its functional groups."""
    ds = mr_instance(1, NumberOfFrames=5, SOPClassUID=EnhancedMRImageStorage, ImagePositionPatient=None)
    groups = []
    for number in range(5):
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 6 * number]
        group.PlanePositionSequence = [place]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.PixelData = np.random.default_rng(7).integers(0, 4000, (5, 16, 16), np.uint16).tobytes()
    path = tmp_path / "enhanced.dcm"
    path.write_bytes(encoded(ds))
    return path


def _compressed(path: Path, syntax: str) -> bytes:
    ds = dcmread(path)
    ds.compress(syntax, generate_instance_uid=False)
    buffer = BytesIO()
    dcmwrite(buffer, ds)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless])
def test_a_frame_alone_decodes_to_what_it_was_with_its_place(whole: Path, tmp_path: Path, syntax: str | None) -> None:
    content = whole.read_bytes() if syntax is None else _compressed(whole, syntax)
    (tmp_path / "whole.dcm").write_bytes(content)
    together = {one.frame_number: one for one in decode(tmp_path / "whole.dcm")}
    uids = set()
    for number, frame in split_frames(content, {1: 1, 3: 7, 5: 9}):
        (tmp_path / "one.dcm").write_bytes(frame)
        [alone] = decode(tmp_path / "one.dcm")
        ds = dcmread(BytesIO(frame))
        assert ds.file_meta.TransferSyntaxUID == dcmread(whole).file_meta.TransferSyntaxUID or syntax
        assert (ds.NumberOfFrames, len(ds.PerFrameFunctionalGroupsSequence)) == (1, 1)
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.SOPClassUID in STORAGE_SOP_CLASSES
        assert (ds.PatientID, ds.SeriesInstanceUID) == (dcmread(whole).PatientID, dcmread(whole).SeriesInstanceUID)
        assert (alone.position, alone.orientation) == (together[number].position, together[number].orientation)
        assert np.array_equal(alone.pixels, together[number].pixels)
        assert alone.instance_number == {1: 1, 3: 7, 5: 9}[number]
        uids.add(ds.SOPInstanceUID)
    assert len(uids) == 3
    assert uids == {dcmread(BytesIO(one)).SOPInstanceUID for _, one in split_frames(content, {1: 1, 3: 7, 5: 9})}


def _bits(ds: Dataset) -> None:
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.NumberOfFrames = 3, 3, 1, 1, 0, 2
    ds.PixelData = b"\1\2\3\4"


def _short(ds: Dataset) -> None:
    ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData[:-2] * 2


def _no_pixels(ds: Dataset) -> None:
    ds.NumberOfFrames = 2
    del ds.PixelData


@pytest.mark.parametrize("change", [_bits, _short, _no_pixels])
def test_frames_that_do_not_lie_apart_are_refused(change: object) -> None:
    ds = mr_instance()
    change(ds)  # type: ignore[operator]
    with pytest.raises(NotDivisible):
        list(split_frames(encoded(ds), {1: 1, 2: 2}))


def test_a_frame_that_is_not_there_and_a_file_that_is_none_are_refused(whole: Path) -> None:
    for content, number in ((whole.read_bytes(), 6), (whole.read_bytes(), 0), (b"nothing", 1)):
        with pytest.raises(NotDivisible):
            list(split_frames(content, {number: 1}))
