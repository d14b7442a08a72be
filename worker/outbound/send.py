"""Delivery rows → C-STORE → delivered, or again later, or failed. One thread a destination: none holds up another."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from worker import commitment, dicom, store
from worker.config import DestinationSection
from worker.dicom import derive_uid
from worker.errors import Park, Retry, WorkerError
from worker.logs import fault_fields, get_log
from worker.tables import Commitment, DeliveryRow, DeliveryState, ObjectRow
from worker.tls import client_context

# A peer that says no so many times to the same object means it; a person looks, and may retry.
REJECTIONS_BEFORE_FAILED = 10
_FIRST_DELAY_SECONDS = 2.0
_LONGEST_DELAY_SECONDS = 600.0
SOP_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage)
HOLD_FOR_REPORT_SECONDS = 2.0
_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


class Rejected(WorkerError):
    """The peer answered a C-STORE with a failure status, or does not take the SOP class."""

    def __init__(self, status: int | None, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.status = status


def backoff(attempts: int) -> timedelta:
    """How long to wait after the given number of attempts: doubling, at most ten minutes, a quarter of it jitter."""
    seconds = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(attempts - 1, 20))
    return timedelta(seconds=seconds * random.uniform(0.75, 1.0))


@dataclass(frozen=True)
class Sender:
    """Sends what is due at one destination."""

    destination: DestinationSection
    ae_title: str
    database: store.Store
    data_dir: Path
    clock: Callable[[], datetime]

    @property
    def owner(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}:{self.destination.name}"

    def send_due(self) -> int:
        """Send one batch over one association; the number of deliveries that were due."""
        # Longer than a whole batch can take, so that the lease is lost only with the process.
        lease = timedelta(seconds=self.destination.timeout_seconds * 8)
        with self.database.write() as session:
            due = store.claim_deliveries(session, self.destination.name, self.owner, self.clock(), lease, limit=4)
        if not due:
            return 0
        try:
            assoc = associate(self.destination, self.ae_title)
        except Retry as fault:
            for delivery, _ in due:
                self._again(delivery, fault)
            return len(due)
        try:
            for delivery, made in due:
                self._deliver(assoc, delivery, made)
        finally:
            if assoc.is_established:
                assoc.release()
        return len(due)

    def ask_for_commitment(self) -> int:
        """N-ACTION for what was delivered and not yet committed to; the number of objects asked for.

        The answer comes as N-EVENT-REPORT, on this association while it is held, or later on a new one to our SCP.
        """
        now = self.clock()
        transaction_uid = derive_uid("commitment", self.destination.name, uuid.uuid4().hex)
        until = now + timedelta(seconds=self.destination.commitment_timeout_seconds)
        with self.database.write() as session:  # recorded first: the report may be quicker than the answer
            asked = store.claim_commitments(session, self.destination.name, transaction_uid, now, until)
        if not asked:
            return 0
        told = threading.Event()
        try:
            assoc = associate(self.destination, self.ae_title, [(evt.EVT_N_EVENT_REPORT, self._on_report, [told])])
            try:
                answer, _ = assoc.send_n_action(
                    commitment.request(transaction_uid, asked),
                    commitment.REQUEST_ACTION,
                    commitment.SOP_CLASS,
                    commitment.SOP_INSTANCE,
                )
                if "Status" in answer and answer.Status == dicom.SUCCESS:
                    told.wait(HOLD_FOR_REPORT_SECONDS)
            finally:
                if assoc.is_established:
                    assoc.release()
        except (Retry, RuntimeError, ValueError) as fault:  # ValueError: the peer does not offer the service
            get_log().warning("storage commitment not asked for", **self._named(type(fault).__name__))
        return len(asked)

    def _on_report(self, event: evt.Event, told: threading.Event) -> tuple[int, None]:
        status = store.record_commitment_report(self.database, event.event_information, self.clock())
        told.set()
        return status, None

    def _named(self, reason: str) -> dict[str, str]:
        return {"destination": self.destination.name, "reason": reason}

    def _deliver(self, assoc: Association, delivery: DeliveryRow, made: ObjectRow) -> None:
        try:
            status, sent_as = store_object(assoc, self._read(made))
        except Rejected as rejected:
            self._rejected(delivery, rejected)
        except Park as fault:
            self._end(delivery, state=DeliveryState.FAILED, reason=fault.reason, detail=fault.detail)
        except Retry as fault:
            self._again(delivery, fault)
        else:
            self._end(
                delivery,
                state=DeliveryState.DELIVERED,
                status=status,
                delivered_at=self.clock(),
                sent_as=sent_as,
                commitment=Commitment.DUE if self.destination.storage_commitment else None,
                reason=None,
                detail=None,
            )

    def _read(self, made: ObjectRow) -> Dataset:
        try:
            return dcmread(self.data_dir / made.path)
        except FileNotFoundError:
            raise Park("object-missing", "the file of this object is gone from the data folder") from None
        except OSError as error:
            raise Retry("object-unreadable", f"the file of this object cannot be read ({error.errno})") from None

    def _rejected(self, delivery: DeliveryRow, rejected: Rejected) -> None:
        rejections = delivery.rejections + 1
        common: dict[str, Any] = {
            "rejections": rejections,
            "status": rejected.status,
            "reason": rejected.reason,
            "detail": rejected.detail,
        }
        if rejections >= REJECTIONS_BEFORE_FAILED:
            self._end(delivery, state=DeliveryState.FAILED, **common)
        else:
            not_before = self.clock() + backoff(rejections)
            self._end(delivery, state=DeliveryState.PENDING, not_before=not_before, **common)

    def _again(self, delivery: DeliveryRow, fault: Retry) -> None:
        self._end(
            delivery,
            state=DeliveryState.PENDING,
            not_before=self.clock() + backoff(delivery.attempts),
            reason=fault.reason,
            detail=fault.detail,
        )

    def _end(self, delivery: DeliveryRow, **values: Any) -> None:
        with self.database.write() as session:
            store.end_delivery(session, delivery.id, self.owner, values)
        get_log().info(
            "delivery",
            delivery_row=delivery.id,
            destination=self.destination.name,
            state=values["state"],
            attempts=delivery.attempts,
            reason=values.get("reason"),
        )

    def run(self, stop: threading.Event, poll_seconds: float = 0.25) -> None:
        """Send until `stop`; what is in hand is finished."""
        while not stop.is_set():
            try:
                busy = self.send_due() > 0
                if not busy and self.destination.storage_commitment:
                    self.ask_for_commitment()
            except Exception as error:  # a thread's boundary: the lease brings the deliveries back
                get_log().error("sending failed", destination=self.destination.name, **fault_fields(error))
                busy = False
                stop.wait(_FIRST_DELAY_SECONDS)
            if not busy:
                stop.wait(poll_seconds)


def tls_arguments(destination: DestinationSection) -> tuple[ssl.SSLContext, str] | None:
    """What pynetdicom's `associate` wants for TLS; None for a destination without."""
    files = (destination.tls_certificate, destination.tls_key, destination.tls_authority)
    if files[0] is None or files[1] is None or files[2] is None:
        return None
    return client_context(files[0], files[1], files[2]), destination.host


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


def store_object(assoc: Association, ds: Dataset) -> tuple[int, str]:
    """C-STORE; the peer's success or warning status and the SOP Instance UID it was stored under.

    Raises Rejected, or Retry for a fault that passes.
    """
    accepted = {one.abstract_syntax for one in assoc.accepted_contexts}
    if ds.SOPClassUID == Comprehensive3DSRStorage and ds.SOPClassUID not in accepted:
        ds = as_comprehensive(ds)
    if not assoc.is_established:
        raise Retry("association-lost", "the association ended before this object was sent")
    if ds.SOPClassUID not in accepted:
        raise Rejected(None, "sop-class-refused", f"the peer does not take {ds.SOPClassUID.name}")
    try:
        answer = assoc.send_c_store(ds)  # converts to Implicit VR where the peer takes nothing else
    except RuntimeError:  # pynetdicom: the association ended between the look above and now
        raise Retry("association-lost", "the association ended before this object was sent") from None
    if "Status" not in answer:
        raise Retry("no-answer", "the peer closed the association or did not answer in time")
    status = int(answer.Status)
    if status == dicom.SUCCESS or status >> 12 == 0xB:  # 0xBxxx: stored, with a warning (PS3.4 B.2.3)
        return status, str(ds.SOPInstanceUID)
    if status >> 8 == 0xA7:
        raise Retry("peer-out-of-resources", f"the peer has no room (0x{status:04X})")
    raise Rejected(status, "rejected", f"the peer answered 0x{status:04X}")


def as_comprehensive(report: Dataset) -> Dataset:
    """The same report for a peer without Comprehensive 3D SR: nothing in it has 3D coordinates."""
    ds = Dataset(report)
    ds.file_meta = report.file_meta
    ds.SOPClassUID = ComprehensiveSRStorage
    ds.SOPInstanceUID = derive_uid("comprehensive", str(report.SOPInstanceUID))
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def echo(destination: DestinationSection, ae_title: str) -> None:
    """C-ECHO. Raises Retry when it does not succeed."""
    assoc = associate(destination, ae_title)
    try:
        answer = assoc.send_c_echo()
    finally:
        assoc.release()
    if "Status" not in answer or answer.Status != dicom.SUCCESS:
        raise Retry(
            "echo-failed", f"{destination.name} accepted the association but did not answer C-ECHO with success"
        )
