"""C-STORE of bytes as they are: what no toolkit would send, and broken or hostile peers do."""

from __future__ import annotations

from io import BytesIO

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE


def raw_store(
    port: int, sop_class_uid: str, sop_instance_uid: str, encoded: bytes, *, called: str = "AI_WORKER"
) -> int:
    """Send `encoded` as the dataset of one C-STORE; the status that came back.

    ConnectionError when there was no association or no answer.
    """
    ae = AE(ae_title="RAW")
    ae.add_requested_context(sop_class_uid, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, ae_title=called)
    if not assoc.is_established:
        raise ConnectionError("no association")
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class_uid
    request.AffectedSOPInstanceUID = sop_instance_uid
    request.Priority = 2
    request.DataSet = BytesIO(encoded)
    context = assoc.accepted_contexts[0]
    assoc._reactor_checkpoint.clear()  # as pynetdicom's own send_c_store does: we read the answer, not its thread
    try:
        assoc.dimse.send_msg(request, context.context_id)
        _, answer = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    if answer is None or answer.Status is None:
        raise ConnectionError("no answer")
    assoc.release()
    return int(answer.Status)
