"""The file that a stored dataset becomes."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, MRImageStorage

from worker.network.part10 import file_beginning


def test_pydicom_reads_the_file_meta_information() -> None:
    beginning = file_beginning(MRImageStorage, "1.2.3", JPEG2000Lossless)
    meta = dcmread(BytesIO(beginning)).file_meta
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPClassUID == MRImageStorage
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == JPEG2000Lossless
    assert meta.FileMetaInformationGroupLength == len(beginning) - 144
