"""A picture becomes a DICOM object of its own, the same bytes for the same picture, without label or path."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import SecondaryCaptureImageStorage

from monai_train.data.images import Picture
from monai_train.data.secondary_capture import encode_secondary_capture


def encoded(pixels: np.ndarray, sha256: str = "ab", path: str = "glioma/secret.png", kind: str = "PNG") -> bytes:
    return encode_secondary_capture(Picture(pixels, "L", kind), sha256, path, 10)


def read(content: bytes) -> Dataset:
    return dcmread(BytesIO(content))


@pytest.mark.parametrize(("depth", "bits", "vr"), [(np.uint8, 8, "OB"), (np.uint16, 16, "OW")])
def test_pixels_and_depth_are_those_of_the_picture(depth: type, bits: int, vr: str) -> None:
    pixels = (np.arange(5 * 7).reshape(5, 7) * (7 if bits == 8 else 900)).astype(depth)
    ds = read(encoded(pixels))
    np.testing.assert_array_equal(pixel_array(ds), pixels)
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds["PixelData"].VR) == (bits, bits, bits - 1, vr)
    assert len(ds.PixelData) % 2 == 0  # PS3.5 8.1.1
    assert (ds.SOPClassUID, ds.Modality) == (SecondaryCaptureImageStorage, "MR")


def test_same_picture_gives_the_same_bytes_and_another_path_another_object() -> None:
    pixels = np.zeros((4, 4), np.uint8)
    assert encoded(pixels) == encoded(pixels.copy())
    first, other = read(encoded(pixels)), read(encoded(pixels, path="b.png"))
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"):
        assert first[name].value != other[name].value
    assert b"glioma" not in encoded(pixels)
    assert b"secret" not in encoded(pixels)


def test_lossy_compression_stays_recorded() -> None:
    pixels = np.zeros((10, 10), np.uint8)
    ds = read(encoded(pixels, kind="JPEG"))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(ds.LossyImageCompressionRatio) == 10
    assert "LossyImageCompression" not in read(encoded(pixels))
