"""Encode the pictures of a whole series as the MR images of a DICOM series (PS3.3 A.4), so that they stack.

A picture says neither pixel spacing nor position. A field of 240 mm and slices from the skull base to the vertex are
assumed: lengths are near those of a head, not measured.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from pydicom.uid import MRImageStorage

from monai_train.data.images import Picture
from monai_train.data.secondary_capture import encode, picture_dataset
from worker.dicom.standard import derive_uid

FIELD_MM = 240.0
_DESCRIPTIONS = {"T1": "AX T1", "T1C": "AX T1 POST", "T2": "AX T2", "FLAIR": "AX FLAIR"}


@dataclass(frozen=True, slots=True)
class SlicePlace:
    """The place of a picture in a series: names of patient, study and series, and the slice counted from the base."""

    patient: str
    study: str
    series: str
    sequence: str
    number: int
    step_mm: float

    @property
    def series_uid(self) -> str:
        """The Series Instance UID, the same for the same names."""
        return derive_uid("series", self.patient, self.study, self.series)


def encode_slice(picture: Picture, place: SlicePlace, source_sha256: str, source_bytes: int) -> bytes:
    """The bytes of a DICOM file: an axial MR image at its place. The same picture gives the same bytes."""
    series = place.series_uid
    ds = picture_dataset(picture, source_bytes, derive_uid("slice", series, source_sha256), series)
    ds.SOPClassUID = MRImageStorage
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    del ds.ConversionType
    ds.PatientID = f"PATIENT-{hashlib.sha256(place.patient.encode()).hexdigest()[:16]}"
    ds.PatientName = f"Anonymous^{ds.PatientID}"
    ds.StudyInstanceUID = derive_uid("study", place.study)
    ds.Manufacturer = None
    ds.SeriesDescription = _DESCRIPTIONS.get(place.sequence, "")
    ds.InstanceNumber = place.number
    ds.ScanningSequence, ds.SequenceVariant = "RM", "NONE"  # of a picture, neither is known
    ds.ScanOptions = ds.MRAcquisitionType = ds.RepetitionTime = ds.EchoTime = ds.EchoTrainLength = None
    if place.sequence == "T1C":
        ds.ContrastBolusAgent = "given"
    spacing = FIELD_MM / max(picture.pixels.shape)
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = derive_uid("frame of reference", place.study, series)
    ds.PositionReferenceIndicator = None
    ds.PixelSpacing = [round(spacing, 4)] * 2
    ds.SliceThickness = ds.SpacingBetweenSlices = place.step_mm
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    corner = [round(-spacing * length / 2, 3) for length in reversed(picture.pixels.shape)]
    ds.ImagePositionPatient = [*corner, round(place.step_mm * (place.number - 1), 3)]
    ds.BitsAllocated = 16  # PS3.3 C.8.3.1.1.4
    return encode(ds, picture.pixels.astype(np.uint16))
