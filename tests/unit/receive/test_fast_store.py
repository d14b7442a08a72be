"""The bytes of C-STORE: the response."""

from __future__ import annotations

from pydicom.uid import JPEG2000Lossless, MRImageStorage
from pynetdicom.dimse_messages import C_STORE_RSP, DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA

from worker.dicom import standard
from worker.receive import fast_store
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
