"""Single images to read: a small DICOM data set around an array, and its file in any transfer syntax."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

UNCOMPRESSED = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def image(pixels: npt.NDArray[Any], **attributes: Any) -> Dataset:
    """An MR image of integers [rows, columns], [rows, columns, 3] or [frames, rows, columns] (with NumberOfFrames)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Modality, ds.InstanceNumber, ds.PatientID, ds.PatientName = "MR", 1, "CANARY-ID", "CANARY^NAME"
    colour = pixels.ndim == 3 and "NumberOfFrames" not in attributes
    ds.Rows, ds.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that the standard forbids are what some tests are about
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    return ds


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write the data set, its pixels encoded in `syntax` by pydicom's own encoders."""
    if syntax == ExplicitVRBigEndian:
        pixels = np.frombuffer(ds.PixelData, f"<u{ds.BitsAllocated // 8}")
        ds.PixelData = pixels.astype(f">u{ds.BitsAllocated // 8}").tobytes()
    if syntax in UNCOMPRESSED:
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds.compress(syntax, generate_instance_uid=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(path, enforce_file_format=True)
    return path
