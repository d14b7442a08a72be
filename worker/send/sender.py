"""Deliveries: claim what is due at a destination, send it, and record it as delivered, to be retried, or failed.

Each destination has its own thread, so that a slow one does not delay the others.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

import worker.dicom.character_sets  # noqa: F401 - text of senders is decoded here
from worker.audit import events
from worker.audit.subjects import delivered
from worker.db.deliveries import (
    claim_commitments,
    claim_deliveries,
    delivery_waits,
    end_delivery,
    record_commitment_report,
)
from worker.db.engine import Database
from worker.db.instances import StoredFile
from worker.db.tables import Commitment, DeliveryRow, DeliveryState, FileKind, ObjectRow
from worker.dicom.standard import derive_uid
from worker.errors import Park, Retry
from worker.logs import fault_fields, get_log
from worker.process import Promise, unwatched
from worker.send.destinations.base import Connection, Destination, Rejected
from worker.storage.integrity import Integrity

# After this many rejections of the same object the failure is treated as permanent; a person may retry.
REJECTIONS_BEFORE_FAILED = 10
_BATCH = 4  # deliveries over one connection
_FIRST_DELAY_SECONDS = 2.0
_ROUND_SECONDS = 300.0  # beside sending: connecting, asking for commitment, a database that is locked
_LONGEST_DELAY_SECONDS = 600.0


def backoff(attempts: int) -> timedelta:
    """The wait after this number of attempts: doubles up to ten minutes, less up to a quarter of jitter."""
    seconds = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(attempts - 1, 20))
    return timedelta(seconds=seconds * random.uniform(0.75, 1.0))


@dataclass(frozen=True)
class Sender:
    """Sends the objects that are due at one destination."""

    destination: Destination
    ae_title: str
    database: Database
    data_dir: Path
    clock: Callable[[], datetime]
    record: events.RecordEvent = events.unrecorded
    promise: Promise = unwatched

    @property
    def owner(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}:{self.destination.name}"

    def send_due(self) -> int:
        """Send one batch over one connection. Returns the number of deliveries that were due."""
        # Covers a whole batch, so that only the death of this process lets the lease expire.
        lease = timedelta(seconds=self.destination.store_seconds * _BATCH)
        with self.database.read() as session:
            if not delivery_waits(session, self.destination.name, self.clock()):
                return 0
        with self.database.write() as session:
            due = claim_deliveries(session, self.destination.name, self.owner, self.clock(), lease, limit=_BATCH)
        if not due:
            return 0
        try:
            connection = self.destination.open(self.ae_title)
        except Retry as fault:
            for delivery, _ in due:
                self._retry_later(delivery, fault)
            return len(due)
        with closing(connection):
            for delivery, produced in due:
                self._deliver(connection, delivery, produced)
        self._audit([delivery.id for delivery, _ in due])
        return len(due)

    def _audit(self, delivery_ids: list[int]) -> None:
        with self.database.read() as session:
            arrived = delivered(session, delivery_ids)
        peer = self.destination.describe()
        for transferred in arrived:
            self.record(events.sent(self.ae_title, peer.ae_title or self.destination.name, peer.host, transferred))

    def request_commitment(self) -> int:
        """Request storage commitment for delivered objects without one. Returns the number of objects."""
        destination = self.destination
        if destination.commitment_timeout is None:
            return 0
        now = self.clock()
        transaction_uid = derive_uid("commitment", destination.name, uuid.uuid4().hex)
        until = now + destination.commitment_timeout
        with self.database.write() as session:  # before the request: the report may arrive before the answer
            instances = claim_commitments(session, destination.name, transaction_uid, now, until)
        if instances:
            try:
                destination.request_commitment(self.ae_title, transaction_uid, instances, self._on_report)
            except Retry as fault:
                get_log().warning("storage commitment not requested", destination=destination.name, reason=fault.reason)
        return len(instances)

    def _on_report(self, information: Dataset) -> int:
        return record_commitment_report(self.database, information, self.clock())

    def _deliver(self, connection: Connection, delivery: DeliveryRow, produced: ObjectRow) -> None:
        try:
            status, sent_as = connection.store(self._read(produced))
        except Rejected as rejected:
            self._rejected(delivery, rejected)
        except Park as fault:
            self._end(delivery, state=DeliveryState.FAILED, reason=fault.reason, detail=fault.detail)
        except Retry as fault:
            self._retry_later(delivery, fault)
        else:
            self._end(
                delivery,
                state=DeliveryState.DELIVERED,
                status=status,
                delivered_at=self.clock(),
                sent_as=sent_as,
                commitment=Commitment.DUE if self.destination.commitment_timeout is not None else None,
                reason=None,
                detail=None,
            )

    def _read(self, produced: ObjectRow) -> Dataset:
        file = StoredFile(FileKind.OBJECT, produced.id, produced.path, produced.sha256)
        try:
            content = (self.data_dir / produced.path).read_bytes()
            if hashlib.sha256(content).hexdigest() != produced.sha256:
                integrity = Integrity(self.database, self.data_dir, self.clock, self.record)
                integrity.require([file])
            return dcmread(BytesIO(content))
        except FileNotFoundError:
            raise Park("object-missing", "the file of this object is missing from the data folder") from None
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

    def _retry_later(self, delivery: DeliveryRow, fault: Retry) -> None:
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
        """Send until `stop`; the current batch is completed."""
        longest = self.destination.store_seconds * (_BATCH + 1) + _ROUND_SECONDS
        while not stop.is_set():
            self.promise(longest)
            try:
                busy = self.send_due() > 0
                if not busy:
                    self.request_commitment()
            except Exception as error:  # a thread's boundary: the deliveries are due again when their lease expires
                get_log().error("sending failed", destination=self.destination.name, **fault_fields(error))
                busy = False
                stop.wait(_FIRST_DELAY_SECONDS)
            if not busy:
                stop.wait(poll_seconds)
