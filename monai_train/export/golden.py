"""The golden cases of a bundle: synthetic heads drawn in code, so that no patient's picture is part of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from worker.dicom.standard import derive_uid

_SIZE = 144
_CASES = {"plain": 0.0, "ring": 0.9}  # brightness of the mass by name
_SLICES = 3


def _head(mass: float, index: int) -> npt.NDArray[np.uint16]:
    """A slice [144, 144] of scalp, brain and ventricles, with a ring-like mass of the given brightness."""
    y, x = np.mgrid[-1 : 1 : _SIZE * 1j, -1 : 1 : _SIZE * 1j]
    radius = np.hypot(x / 0.72, y / 0.88)
    folds = 0.06 * np.sin(23 * x + 2 * index) * np.cos(19 * y)
    image = np.where(radius < 0.84, 0.45 + folds, 0.0)
    image[(radius > 0.92) & (radius < 1.0)] = 0.85
    for side in (-1, 1):
        image[np.hypot((x - 0.12 * side) / 0.07, (y + 0.05) / 0.28) < 1] = 0.15
    distance = np.hypot(x - 0.35, y - 0.25)
    image = image + mass * np.exp(-(((distance - 0.13 - 0.02 * index) / 0.035) ** 2)) * (radius < 0.84)
    return np.asarray(np.clip(image, 0, 1.4) * 1500, np.uint16)


def write_golden_series(folder: Path) -> dict[str, list[Path]]:
    """Write the cases as axial MR series under `folder`, the same bytes on every run. Returns the files by case."""
    written: dict[str, list[Path]] = {}
    for name, mass in _CASES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(_SLICES):
            path = folder / name / f"{index}.dcm"
            _instance(name, index, _head(mass, index)).save_as(path, enforce_file_format=True)
            written.setdefault(name, []).append(path)
    return written


def _instance(name: str, index: int, pixels: npt.NDArray[np.uint16]) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = derive_uid("golden", name, str(index))
    ds.StudyInstanceUID = derive_uid("golden", name, "study")
    ds.SeriesInstanceUID = derive_uid("golden", name, "series")
    ds.PatientID, ds.PatientName, ds.Modality = "SYNTHETIC", "Synthetic", "MR"
    ds.InstanceNumber = index + 1
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-100, -100, 6 * index]
    ds.PixelSpacing, ds.SliceThickness = [1.4, 1.4], 6
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.tobytes()
    return ds
