"""Delivery rows → C-STORE, STOW-RS or FHIR → delivered, or again later, or failed.

One thread a destination: none holds up another.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from pydicom import Dataset, dcmread
from pynetdicom import evt

from worker.audit import events
from worker.audit.subjects import delivered
from worker.config.settings import Destination, DestinationSection, DicomwebSection, FhirSection, HttpSection
from worker.db.deliveries import (
    claim_commitments,
    claim_deliveries,
    delivery_waits,
    end_delivery,
    record_commitment_report,
)
from worker.db.engine import Database
from worker.db.tables import Commitment, DeliveryRow, DeliveryState, ObjectRow
from worker.dicom import commitment, standard
from worker.dicom.standard import derive_uid
from worker.errors import Park, Retry
from worker.logs import fault_fields, get_log
from worker.send import c_store
from worker.send.c_store import Rejected

# A peer that says no so many times to the same object means it; a person looks, and may retry.
REJECTIONS_BEFORE_FAILED = 10
_FIRST_DELAY_SECONDS = 2.0
_LONGEST_DELAY_SECONDS = 600.0
HOLD_FOR_REPORT_SECONDS = 2.0


class Peer(Protocol):
    """A connection to a destination."""

    def store(self, ds: Dataset) -> tuple[int, str]:
        """The peer's success or warning status and the SOP Instance UID it has the object under.

        Raises Rejected, or Retry for a fault that passes.
        """

    def close(self) -> None: ...


class HttpPeer(Peer, Protocol):
    """One that is asked over HTTP."""

    def probe(self) -> None:
        """Ask whether it is there and speaks the right language. Raises Retry when not."""


def backoff(attempts: int) -> timedelta:
    """How long to wait after the given number of attempts: doubling, at most ten minutes, a quarter of it jitter."""
    seconds = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(attempts - 1, 20))
    return timedelta(seconds=seconds * random.uniform(0.75, 1.0))


@dataclass(frozen=True)
class Sender:
    """Sends what is due at one destination."""

    destination: Destination
    ae_title: str
    database: Database
    data_dir: Path
    clock: Callable[[], datetime]
    record: events.RecordEvent = events.unrecorded

    @property
    def owner(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}:{self.destination.name}"

    def send_due(self) -> int:
        """Send one batch over one connection; the number of deliveries that were due."""
        # Longer than a whole batch can take, so that the lease is lost only with the process.
        lease = timedelta(seconds=self.destination.timeout_seconds * 8)
        with self.database.read() as session:
            if not delivery_waits(session, self.destination.name, self.clock()):
                return 0
        with self.database.write() as session:
            due = claim_deliveries(session, self.destination.name, self.owner, self.clock(), lease, limit=4)
        if not due:
            return 0
        try:
            peer = connect(self.destination, self.ae_title)
        except Retry as fault:
            for delivery, _ in due:
                self._again(delivery, fault)
            return len(due)
        with closing(peer):
            for delivery, made in due:
                self._deliver(peer, delivery, made)
        self._audit([delivery.id for delivery, _ in due])
        return len(due)

    def _audit(self, delivery_ids: list[int]) -> None:
        with self.database.read() as session:
            arrived = delivered(session, delivery_ids)
        one = self.destination
        title, address = (one.name, one.url) if isinstance(one, HttpSection) else (one.ae_title, one.host)
        for transferred in arrived:
            self.record(events.sent(self.ae_title, title, address, transferred))

    def ask_for_commitment(self) -> int:
        """N-ACTION for what was delivered and not yet committed to; the number of objects asked for.

        The answer comes as N-EVENT-REPORT, on this association while it is held, or later on a new one to our SCP.
        """
        destination = self.destination
        if not isinstance(destination, DestinationSection) or not destination.storage_commitment:
            return 0
        now = self.clock()
        transaction_uid = derive_uid("commitment", destination.name, uuid.uuid4().hex)
        until = now + timedelta(seconds=destination.commitment_timeout_seconds)
        with self.database.write() as session:  # recorded first: the report may be quicker than the answer
            asked = claim_commitments(session, destination.name, transaction_uid, now, until)
        if not asked:
            return 0
        told = threading.Event()
        try:
            handlers = [(evt.EVT_N_EVENT_REPORT, self._on_report, [told])]
            assoc = c_store.associate(destination, self.ae_title, handlers)
            try:
                answer, _ = assoc.send_n_action(
                    commitment.request(transaction_uid, asked),
                    commitment.REQUEST_ACTION,
                    commitment.SOP_CLASS,
                    commitment.SOP_INSTANCE,
                )
                if "Status" in answer and answer.Status == standard.SUCCESS:
                    told.wait(HOLD_FOR_REPORT_SECONDS)
            finally:
                if assoc.is_established:
                    assoc.release()
        except (Retry, RuntimeError, ValueError) as fault:  # ValueError: the peer does not offer the service
            get_log().warning("storage commitment not asked for", **self._named(type(fault).__name__))
        return len(asked)

    def _on_report(self, event: evt.Event, told: threading.Event) -> tuple[int, None]:
        status = record_commitment_report(self.database, event.event_information, self.clock())
        told.set()
        return status, None

    @property
    def _wants_commitment(self) -> bool:
        return isinstance(self.destination, DestinationSection) and self.destination.storage_commitment

    def _named(self, reason: str) -> dict[str, str]:
        return {"destination": self.destination.name, "reason": reason}

    def _deliver(self, peer: Peer, delivery: DeliveryRow, made: ObjectRow) -> None:
        try:
            status, sent_as = peer.store(self._read(made))
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
                commitment=Commitment.DUE if self._wants_commitment else None,
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
            end_delivery(session, delivery.id, self.owner, values)
        get_log().info(
            "delivery",
            delivery_row=delivery.id,
            destination=self.destination.name,
            state=values["state"],
            attempts=delivery.attempts,
            reason=values.get("reason"),
        )

    def run(self, stop: threading.Event, poll_seconds: float = 0.1) -> None:
        """Send until `stop`; what is in hand is finished."""
        while not stop.is_set():
            try:
                busy = self.send_due() > 0
                if not busy:
                    self.ask_for_commitment()
            except Exception as error:  # a thread's boundary: the lease brings the deliveries back
                get_log().error("sending failed", destination=self.destination.name, **fault_fields(error))
                busy = False
                stop.wait(_FIRST_DELAY_SECONDS)
            if not busy:
                stop.wait(poll_seconds)


def connect(destination: Destination, ae_title: str) -> Peer:
    """Raises Retry when the peer is away or will not have us."""
    if isinstance(destination, DestinationSection):
        return c_store.StorageScp(c_store.associate(destination, ae_title))
    return _over_http(destination)


def _over_http(destination: DicomwebSection | FhirSection) -> HttpPeer:
    """Each with libraries that most sites do not need, and so do not load."""
    if isinstance(destination, FhirSection):
        from worker.send import fhir

        return fhir.connect(destination)
    from worker.send import stow

    return stow.connect(destination)


def probe(destination: Destination, ae_title: str) -> None:
    """C-ECHO, or a question that changes nothing. Raises Retry when the peer does not answer well."""
    if isinstance(destination, DestinationSection):
        c_store.echo(destination, ae_title)
        return
    with closing(_over_http(destination)) as server:
        server.probe()


def answers(destination: Destination) -> str:
    """One line for a person, after a `probe` that went well."""
    if isinstance(destination, DicomwebSection):
        return f"{destination.url} answers as a DICOMweb server"
    if isinstance(destination, FhirSection):
        return f"{destination.url} answers as a FHIR R4 server"
    return f"{destination.ae_title} at {destination.host}:{destination.port} answers C-ECHO"
