"""The bytes of C-STORE: the file and the response."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, MRImageStorage
from pynetdicom.dimse_messages import C_STORE_RSP, DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA

from worker.dicom import standard
from worker.receive import fast_store
from worker.receive.fast_store import file_beginning
from worker.storage.acceptance import StoreRequest


def test_pynetdicom_reads_the_response() -> None:
    request = StoreRequest(MRImageStorage, "1.2.3.4", JPEG2000Lossless, b"")
    encoded = fast_store._answer_command(request, 7, standard.OUT_OF_RESOURCES)
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[1, b"\x03" + encoded]]
    message = DIMSEMessage()
    assert message.decode_msg(primitive)
    assert isinstance(message, C_STORE_RSP)
    response = message.message_to_primitive()
    assert (response.Status, response.MessageIDBeingRespondedTo) == (standard.OUT_OF_RESOURCES, 7)
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == (MRImageStorage, "1.2.3.4")


def test_pydicom_reads_the_file_meta_information() -> None:
    beginning = file_beginning(MRImageStorage, "1.2.3", JPEG2000Lossless)
    meta = dcmread(BytesIO(beginning)).file_meta
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPClassUID == MRImageStorage
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == JPEG2000Lossless
    assert meta.FileMetaInformationGroupLength == len(beginning) - 144
