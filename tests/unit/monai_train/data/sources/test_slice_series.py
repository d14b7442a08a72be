"""Pictures of a series become MR images that the worker stacks in their order, at their distance."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import pixel_array
from pydicom.uid import MRImageStorage

from monai_train.data.images import Picture
from monai_train.data.sources.dicom_series import sequence_of, type_of_series
from monai_train.data.sources.slice_series import SlicePlace, encode_slice
from monai_train.data.sources.stacks import read_preprocessing
from tests.testbed.converted import head
from worker.inference.preprocess import preprocess

HEADS = [head("notumor", np.random.default_rng(seed)) for seed in range(5)]


def files(folder: Path, sequence: str = "FLAIR", step: float = 4.5) -> list[Path]:
    paths = []
    for number, pixels in enumerate(HEADS, start=1):
        place = SlicePlace("p", "p/1", "p/flair", sequence, number, step)
        paths.append(folder / f"{9 - number}.dcm")  # not in the order of the slices
        paths[-1].write_bytes(encode_slice(Picture(pixels, "L", "JPEG"), place, f"{number}", 1000))
    return paths


def test_the_worker_stacks_them_from_base_to_vertex(tmp_path: Path) -> None:
    paths = files(tmp_path)
    volume = preprocess(paths[::-1], read_preprocessing())
    assert [frame.path for frame in volume.frames] == paths
    assert np.diff([frame.position_mm for frame in volume.frames if frame.position_mm is not None]) == pytest.approx(
        4.5
    )
    assert volume.frames[0].plane == "axial"
    ds = dcmread(paths[0])
    np.testing.assert_array_equal(pixel_array(ds), HEADS[0])
    assert (ds.SOPClassUID, ds.BitsAllocated, ds.BitsStored, ds.LossyImageCompression) == (MRImageStorage, 16, 8, "01")
    assert ds.PixelSpacing == [2.5, 2.5]
    assert {dcmread(path).SeriesInstanceUID for path in paths} == {ds.SeriesInstanceUID}


@pytest.mark.parametrize("sequence", ["T1C", "T2", "FLAIR"])
def test_headers_tell_the_sequence(tmp_path: Path, sequence: str) -> None:
    assert sequence_of(type_of_series(files(tmp_path, sequence))) == sequence


def test_same_picture_gives_the_same_bytes_and_no_name() -> None:
    place = SlicePlace("secret", "secret/1", "secret/t1", "T1", 1, 5.0)
    content = encode_slice(Picture(HEADS[0], "L", "PNG"), place, "ab", 10)
    assert content == encode_slice(Picture(HEADS[0].copy(), "L", "PNG"), place, "ab", 10)
    assert b"secret" not in content
    other = encode_slice(Picture(HEADS[0], "L", "PNG"), place, "cd", 10)
    first, second = (dcmread(BytesIO(one)) for one in (content, other))
    assert first.SOPInstanceUID != second.SOPInstanceUID
