"""Small MR instances, and a database with rows in it, for tests that need no head."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RLELossless

from worker.db.instances import NewInstance
from worker.dicom.standard import derive_uid
from worker.inference.illustrated import IllustratedResult
from worker.results import CodedConcept, ModelClass, ModelIdentity, ResultStatus, SliceResult
from worker.storage.acceptance import StoreRequest

CONTENT = b"x"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BRAIN = CodedConcept("12738006", "SCT", "Brain")
MODEL = ModelIdentity(
    name="test-model",
    version="1.0",
    manufacturer="test",
    family="ResNet-18",
    sha256="ab" * 32,
    classes=(
        ModelClass("glioma", "Glioma", True, CodedConcept("393564001", "SCT", "Glioma"), BRAIN),
        ModelClass("notumor", "No tumour", False, None, BRAIN),
    ),
    parameters="temperature 1",
    limits="a test",
)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def mr_instance(number: int = 1, series: str = "a", **changes: Any) -> Dataset:
    """A valid 16 x 16 MR image; `changes` by keyword, None removes the element."""
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = derive_uid("instance", series, str(number))
    ds.SeriesInstanceUID = derive_uid("series", series)
    ds.StudyInstanceUID = derive_uid("study", series)
    ds.PatientID, ds.PatientName = f"ID-{series}", f"Family^{series}"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "F"
    ds.AccessionNumber, ds.StudyID, ds.StudyDate, ds.StudyTime = f"ACC-{series}", "1", "20260301", "120000"
    ds.ReferringPhysicianName = ""
    ds.Modality, ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = "MR", "t1", 1, number
    ds.ImageType, ds.ScanningSequence, ds.BodyPartExamined = ["ORIGINAL", "PRIMARY", "M"], "SE", "BRAIN"
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 5.0 * number]
    ds.PixelSpacing, ds.SliceThickness = [1, 1], 5
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.random.default_rng(number).integers(0, 4000, (16, 16), np.uint16).tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset) -> bytes:
    """The dataset as a DICOM file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", MRImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def received(ds: Dataset) -> StoreRequest:
    """The C-STORE request that brings a dataset."""
    return StoreRequest(
        affected_sop_class_uid=str(ds.get("SOPClassUID", MRImageStorage)),
        affected_sop_instance_uid=str(ds.get("SOPInstanceUID", "1.2.3")),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        encoded=encoded(ds),
        association_id=None,
    )


def new_instance(number: int = 1, series: str = "a", **changes: Any) -> NewInstance:
    """A row's values; its file is to hold CONTENT where it is compared with the row."""
    values: dict[str, Any] = {
        "sop_instance_uid": derive_uid("instance", series, str(number)),
        "sop_class_uid": MRImageStorage,
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "series_instance_uid": derive_uid("series", series),
        "study_instance_uid": derive_uid("study", series),
        "patient_id": f"ID-{series}",
        "patient_name": f"Family^{series}",
        "accession_number": f"ACC-{series}",
        "study_date": "20260301",
        "modality": "MR",
        "series_description": "t1",
        "attributes": {"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1},
        "path": f"instances/{series}/{number}.dcm",
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "association_id": None,
    }
    return NewInstance(**values | changes)


def classified(
    instances: list[NewInstance] | tuple[NewInstance, ...] = (), probability: float = 0.9
) -> IllustratedResult:
    """A glioma with that probability, decided by every instance."""
    return IllustratedResult(
        status=ResultStatus.CLASSIFIED,
        label="glioma",
        probability=probability,
        probabilities={"glioma": probability, "notumor": 1 - probability},
        reason=None,
        detail=None,
        slices=tuple(
            SliceResult(one.sop_class_uid, one.sop_instance_uid, None, None, (probability, 1 - probability), True, True)
            for one in instances
        ),
        key_image=None,
    )


def write_series(folder: Path, count: int = 4, series: str = "a", **changes: Any) -> list[Path]:
    """Files of small instances."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, count + 1):
        path = folder / f"{series}-{number:03d}.dcm"
        path.write_bytes(encoded(mr_instance(number, series, **changes)))
        paths.append(path)
    return paths


def write_compressed(path: Path, number: int, series: str = "a") -> Path:
    """The file of a small instance, RLE compressed."""
    ds = mr_instance(number, series)
    encoded(ds)
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)
    return path


class Clock:
    """The real time, which a test may set ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead
