"""The golden cases of an imported model: series of its owner, whose headers are reduced to the geometry.

The pixels stay as they are: whoever gives the bundle away gives these pictures away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pydicom.valuerep import format_number_as_ds

from worker.dicom.standard import derive_uid
from worker.errors import StartError
from worker.pixels.decode import DecodedFrame, decode_series

_SLICES = 8  # of a case of slices


def write_series(folder: Path, files: Sequence[Path], whole: bool) -> list[Path]:
    """Write the frames of a series into `folder` as files of one frame each; `whole`: all, otherwise a few of them.

    Raises NotAssessable; StartError for pixels that 16 bits do not hold.
    """
    frames = decode_series(files)
    if not whole and len(frames) > _SLICES:
        frames = [frames[round(index)] for index in np.linspace(0, len(frames) - 1, _SLICES)]
    folder.mkdir(parents=True)
    written = []
    for number, frame in enumerate(frames, 1):
        path = folder / f"{number:04d}.dcm"
        _stripped(frame, folder.name, number).save_as(path, enforce_file_format=True)
        written.append(path)
    return written


def _stripped(frame: DecodedFrame, case: str, number: int) -> Dataset:
    """A frame with the attributes that preprocessing reads, and no other."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    has_place = frame.orientation is not None and frame.position is not None
    ds.SOPClassUID = frame.sop_class_uid if has_place and _is_single(frame) else SecondaryCaptureImageStorage
    ds.SOPInstanceUID = derive_uid("imported-golden", case, str(number))
    ds.StudyInstanceUID = derive_uid("imported-golden", case, "study")
    ds.SeriesInstanceUID = derive_uid("imported-golden", case, "series")
    ds.Modality, ds.InstanceNumber = frame.modality, number
    ds.PatientID, ds.PatientName = "GOLDEN", ""
    if frame.orientation is not None:
        ds.ImageOrientationPatient = [format_number_as_ds(float(value)) for value in frame.orientation]
    if frame.position is not None:
        ds.ImagePositionPatient = [format_number_as_ds(float(value)) for value in frame.position]
    ds.PixelSpacing = [format_number_as_ds(float(value)) for value in frame.spacing]
    ds.RescaleSlope = format_number_as_ds(float(frame.slope))
    ds.RescaleIntercept = format_number_as_ds(float(frame.intercept))
    ds.Rows, ds.Columns = frame.pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    lowest, highest = int(frame.pixels.min()), int(frame.pixels.max())
    if lowest < -(1 << 15) or highest >= (1 << 16) or (lowest < 0 and highest >= 1 << 15):
        raise StartError("golden-series", "a series for the golden cases has pixels that 16 bits do not hold")
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, int(lowest < 0)
    ds.PixelData = np.ascontiguousarray(frame.pixels, np.int16 if lowest < 0 else np.uint16).tobytes()
    return ds


def _is_single(frame: DecodedFrame) -> bool:
    return frame.frame_number is None
