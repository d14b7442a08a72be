"""Encode a picture as DICOM Secondary Capture (PS3.3 A.8.1); the same picture gives the same bytes."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from monai_train.data.images import Picture, PictureArray
from worker.dicom.standard import derive_uid


def encode_secondary_capture(picture: Picture, source_sha256: str, source_path: str, source_bytes: int) -> bytes:
    """The bytes of a DICOM file, modality MR, MONOCHROME2, 8 or 16 bit.

    The picture gets a patient, a study and a series of its own, as a folder does not say which pictures are of the
    same scan. Label and groups are in the manifest only, so that a corrected label changes no DICOM file. Dates are
    unknown and left empty.
    """
    uid = derive_uid("picture", source_sha256, source_path)
    return encode(picture_dataset(picture, source_bytes, uid, derive_uid("series", uid)), picture.pixels)


def picture_dataset(picture: Picture, source_bytes: int, uid: str, series_uid: str) -> Dataset:
    """All but the pixels of a picture with these SOP Instance and Series Instance UIDs."""
    pixels = picture.pixels
    bits = pixels.dtype.itemsize * 8
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = uid
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.Modality = "MR"
    ds.ConversionType = "WSD"  # workstation, PS3.3 C.8.6.1
    ds.SeriesDescription = "Converted picture, research use"
    ds.PatientID = f"PICTURE-{int(uid.removeprefix('2.25.')):032x}"[:24]
    ds.PatientName = f"Anonymous^{ds.PatientID}"
    ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyInstanceUID = derive_uid("study", uid)
    ds.SeriesInstanceUID = series_uid
    ds.StudyID = "1"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.Laterality = ds.PatientOrientation = ""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelRepresentation = 0
    if picture.format == "JPEG":  # PS3.3 C.7.6.1.1.5: lossy compression stays recorded after decoding
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionRatio = f"{max(1.0, pixels.nbytes / source_bytes):.2f}"
        ds.LossyImageCompressionMethod = "ISO_10918_1"
    return ds


def encode(ds: Dataset, pixels: PictureArray) -> bytes:
    """The bytes of the file of a dataset and its pixels, Explicit VR Little Endian."""
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = content + b"\0" * (len(content) % 2)
    ds["PixelData"].VR = "OW" if ds.BitsAllocated == 16 else "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Set here, so that every release of pydicom writes the same bytes.
    ds.file_meta.ImplementationClassUID = derive_uid("implementation", "monai-train convert")
    ds.file_meta.ImplementationVersionName = "MONAI_TRAIN_1"
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
