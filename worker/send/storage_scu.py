"""C-STORE as SCU: associations with a Storage SCP, storing over them, and what the peer's statuses mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from worker.dicom import commitment, standard
from worker.dicom.standard import comprehensive_uid
from worker.errors import Retry
from worker.network.associate import associate
from worker.send.destinations.base import ConnectionLost, Rejected
from worker.send.destinations.c_store import CStoreDestination

SOP_CLASSES = (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    KeyObjectSelectionDocumentStorage,
)
_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_TRANSFER_SYNTAXES_NOT_SUPPORTED = 0x04  # PS3.8 Table 9-18, result of a presentation context


@dataclass(frozen=True, slots=True)
class StorageAssociation:
    """An association over which objects are stored."""

    assoc: Association

    def store(self, ds: Dataset) -> tuple[int, str]:
        """C-STORE; the peer's success or warning status and the SOP Instance UID under which it was stored.

        Raises Rejected, or Retry for a temporary fault.
        """
        accepted = {context.abstract_syntax for context in self.assoc.accepted_contexts}
        if ds.SOPClassUID == Comprehensive3DSRStorage and ds.SOPClassUID not in accepted:
            ds = as_comprehensive(ds)
        self._require_established()
        if ds.SOPClassUID not in accepted:
            raise refused_context(self.assoc, ds.SOPClassUID, _SYNTAXES)
        return stored_status(self._send(ds)), str(ds.SOPInstanceUID)  # in Implicit VR where the peer takes nothing else

    def store_file(self, path: Path, sop_class_uid: str, transfer_syntax_uid: str) -> int:
        """C-STORE of a file as it is; the peer's status. Raises Rejected for a refused context, or Retry."""
        self._require_established()
        accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in self.assoc.accepted_contexts}
        if (sop_class_uid, transfer_syntax_uid) not in accepted:
            raise refused_context(self.assoc, sop_class_uid, [transfer_syntax_uid])
        return self._send(path)

    def close(self) -> None:
        if self.assoc.is_established:
            self.assoc.release()

    def _require_established(self) -> None:
        if not self.assoc.is_established:
            raise ConnectionLost("association-lost", "the association ended before this object was sent")

    def _send(self, instance: Dataset | Path) -> int:
        try:
            answer = self.assoc.send_c_store(instance)
        except RuntimeError:  # pynetdicom: the association ended after the check above
            raise ConnectionLost("association-lost", "the association ended before this object was sent") from None
        if "Status" not in answer:
            raise ConnectionLost("no-answer", "the peer closed the association or did not answer in time")
        return int(answer.Status)


def stored_status(status: int) -> int:
    """The status, where it means that the peer has the object. Raises Retry or Rejected. Source: PS3.4 B.2.3, C.14.1.1.

    Our UIDs are derived, so a duplicate (PS3.7 C.5.10) is this object, from an attempt whose answer was lost.
    """
    if standard.is_stored(status) or status == standard.DUPLICATE_SOP_INSTANCE:
        return status
    meaning = standard.failure_meaning(status)
    if status >> 8 == 0xA7:
        raise Retry("peer-out-of-resources", f"the peer is out of resources (0x{status:04X})")
    raise Rejected(status, "rejected", f"the peer answered 0x{status:04X} ({meaning})")


def refused_context(assoc: Association, sop_class_uid: str, syntaxes: Sequence[str]) -> Rejected:
    """Why no presentation context of this SOP class was accepted, by name."""
    results = {context.result for context in assoc.rejected_contexts if context.abstract_syntax == sop_class_uid}
    name = UID(sop_class_uid).name
    if results == {_TRANSFER_SYNTAXES_NOT_SUPPORTED}:
        offered = " or ".join(UID(syntax).name for syntax in syntaxes)
        return Rejected(None, "transfer-syntax-refused", f"the peer does not accept {name} in {offered}")
    return Rejected(None, "sop-class-refused", f"the peer does not accept {name}")


def as_comprehensive(report: Dataset) -> Dataset:
    """The same report for a peer without Comprehensive 3D SR: nothing in it has 3D coordinates."""
    ds = Dataset()
    ds.update(report)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.update(report.file_meta)
    ds.preamble = report.preamble
    ds.SOPClassUID = ComprehensiveSRStorage
    ds.SOPInstanceUID = comprehensive_uid(str(report.SOPInstanceUID))
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def associate_for_results(
    destination: CStoreDestination, ae_title: str, handlers: Sequence[tuple[Any, ...]] = ()
) -> Association:
    """An association for every service that a destination of our results offers: see `worker.network.associate`."""
    # A context for each syntax, so that the peer can accept both and we choose.
    contexts = [build_context(uid, syntax) for uid in SOP_CLASSES for syntax in _SYNTAXES]
    contexts.append(build_context(Verification))
    if destination.storage_commitment:
        contexts.append(build_context(commitment.SOP_CLASS))
    return associate(
        destination, ae_title, contexts, service="the SOP classes of results", name=destination.name, handlers=handlers
    )


def echo(destination: CStoreDestination, ae_title: str) -> None:
    """C-ECHO. Raises Retry when it does not succeed."""
    assoc = associate_for_results(destination, ae_title)
    try:
        answer = assoc.send_c_echo()
    finally:
        assoc.release()
    if "Status" not in answer or answer.Status != standard.SUCCESS:
        raise Retry(
            "echo-failed", f"{destination.name} accepted the association but did not answer C-ECHO with success"
        )
