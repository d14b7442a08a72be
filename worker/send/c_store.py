"""A destination that is a Storage SCP: C-STORE over an association, and what its answers mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from worker.config.settings import DestinationSection
from worker.dicom import commitment, standard
from worker.dicom.standard import derive_uid
from worker.errors import Retry, WorkerError
from worker.tls import association_arguments

SOP_CLASSES = (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    KeyObjectSelectionDocumentStorage,
)
_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_TRANSFER_SYNTAXES_NOT_SUPPORTED = 0x04  # PS3.8 Table 9-18, result of a presentation context


class Rejected(WorkerError):
    """The peer answered with a failure status, or does not take the SOP class or any transfer syntax of ours."""

    def __init__(self, status: int | None, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class StorageScp:
    """An association over which objects are stored."""

    assoc: Association

    def store(self, ds: Dataset) -> tuple[int, str]:
        """C-STORE; the peer's success or warning status and the SOP Instance UID it was stored under.

        Raises Rejected, or Retry for a fault that passes.
        """
        accepted = {one.abstract_syntax for one in self.assoc.accepted_contexts}
        if ds.SOPClassUID == Comprehensive3DSRStorage and ds.SOPClassUID not in accepted:
            ds = as_comprehensive(ds)
        if not self.assoc.is_established:
            raise Retry("association-lost", "the association ended before this object was sent")
        if ds.SOPClassUID not in accepted:
            raise refused_context(self.assoc, ds.SOPClassUID, _SYNTAXES)
        try:
            answer = self.assoc.send_c_store(ds)  # converts to Implicit VR where the peer takes nothing else
        except RuntimeError:  # pynetdicom: the association ended between the look above and now
            raise Retry("association-lost", "the association ended before this object was sent") from None
        if "Status" not in answer:
            raise Retry("no-answer", "the peer closed the association or did not answer in time")
        return stored_status(int(answer.Status)), str(ds.SOPInstanceUID)

    def close(self) -> None:
        if self.assoc.is_established:
            self.assoc.release()


def stored_status(status: int) -> int:
    """The status, where it says that the peer has the object. Raises Retry or Rejected. Source: PS3.4 B.2.3, C.14.1.1.

    Our UIDs are derived, so a duplicate (PS3.7 C.5.10) is this object, from an attempt whose answer was lost.
    """
    if status == standard.SUCCESS or status >> 12 == 0xB or status == standard.DUPLICATE_SOP_INSTANCE:
        return status
    meaning = standard.failure_meaning(status)
    if status >> 8 == 0xA7:
        raise Retry("peer-out-of-resources", f"the peer has no room (0x{status:04X})")
    raise Rejected(status, "rejected", f"the peer answered 0x{status:04X} ({meaning})")


def refused_context(assoc: Association, sop_class_uid: str, syntaxes: Sequence[str]) -> Rejected:
    """Why no presentation context of this SOP class was accepted, by name."""
    results = {one.result for one in assoc.rejected_contexts if one.abstract_syntax == sop_class_uid}
    name = UID(sop_class_uid).name
    if results == {_TRANSFER_SYNTAXES_NOT_SUPPORTED}:
        offered = " nor ".join(UID(one).name for one in syntaxes)
        return Rejected(None, "transfer-syntax-refused", f"the peer takes {name} in neither {offered}")
    return Rejected(None, "sop-class-refused", f"the peer does not take {name}")


def as_comprehensive(report: Dataset) -> Dataset:
    """The same report for a peer without Comprehensive 3D SR: nothing in it has 3D coordinates."""
    ds = Dataset(report)
    ds.file_meta = report.file_meta
    ds.preamble = report.preamble
    ds.SOPClassUID = ComprehensiveSRStorage
    ds.SOPInstanceUID = derive_uid("comprehensive", str(report.SOPInstanceUID))
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def associate(destination: DestinationSection, ae_title: str, handlers: Sequence[tuple[Any, ...]] = ()) -> Association:
    """An association for everything we send. Raises Retry when the peer is away or will not have us."""
    ae = AE(ae_title=ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = destination.timeout_seconds
    ae.connection_timeout = min(10.0, destination.timeout_seconds)
    for sop_class_uid in SOP_CLASSES:
        for syntax in _SYNTAXES:  # a context each, so that the peer can take both and we choose
            ae.add_requested_context(sop_class_uid, syntax)
    ae.add_requested_context(Verification)
    if destination.storage_commitment:
        ae.add_requested_context(commitment.SOP_CLASS)
    assoc = ae.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        tls_args=tls_arguments(destination),
        evt_handlers=list(handlers),
    )
    if assoc.is_established:
        return assoc
    if assoc.is_rejected:
        raise Retry("association-rejected", f"{destination.name} rejected the association: are the AE titles known?")
    raise Retry("peer-unavailable", f"{destination.name} does not answer at {destination.host}:{destination.port}")


def tls_arguments(destination: DestinationSection) -> tuple[Any, str] | None:
    """What pynetdicom's `associate` wants for TLS; None for a destination without."""
    files = (destination.tls_certificate, destination.tls_key, destination.tls_authority)
    return association_arguments(*files, destination.host)


def echo(destination: DestinationSection, ae_title: str) -> None:
    """C-ECHO. Raises Retry when it does not succeed."""
    assoc = associate(destination, ae_title)
    try:
        answer = assoc.send_c_echo()
    finally:
        assoc.release()
    if "Status" not in answer or answer.Status != standard.SUCCESS:
        raise Retry(
            "echo-failed", f"{destination.name} accepted the association but did not answer C-ECHO with success"
        )
