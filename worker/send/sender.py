"""Deliveries: claim what is due at a destination, send it, and record it as delivered, to be retried, or failed.

Each destination has its own thread, so that a slow destination does not delay the others.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
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
    destination_waits,
    end_delivery,
    extend_delivery_leases,
    record_commitment_report,
    still_leased,
)
from worker.db.engine import Database, Rest
from worker.db.instances import StoredFile
from worker.db.operating.suspensions import is_suspended
from worker.db.tables import Commitment, DeliveryRow, DeliveryState, FileKind, ObjectRow, Stage
from worker.dicom.standard import derive_uid
from worker.errors import Park, Retry, StartError
from worker.logs import fault_fields, get_log
from worker.process import Promise, unwatched
from worker.send.destinations.base import Connection, ConnectionLost, Destination, Rejected
from worker.stage_times import timed
from worker.storage.integrity import Integrity

# After this many rejections of the same object the failure is treated as permanent; a person may retry.
REJECTIONS_BEFORE_FAILED = 10
_BATCH = 16  # deliveries claimed at once, whose ends are recorded in one transaction
_LEASED_OBJECTS = 4  # a lease covers this many objects that take as long as they may; it is extended in between
_OBJECTS_OVER_A_CONNECTION = 512
_RECORD_SECONDS = 0.5  # the longest that a delivery which has ended waits to be recorded
_LOOK_SECONDS = 0.5  # the longest that a delivery which was superseded after its claim may still go out
_FIRST_DELAY_SECONDS = 2.0
_ROUND_SECONDS = 300.0  # beside sending: connecting, asking for commitment, a database that is locked
_LONGEST_DELAY_SECONDS = 600.0


def backoff(attempts: int) -> timedelta:
    """The wait after this number of attempts: doubles up to ten minutes, less up to a quarter of jitter."""
    seconds = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(attempts - 1, 20))
    return timedelta(seconds=seconds * random.uniform(0.75, 1.0))


@dataclass(frozen=True, slots=True)
class _Ended:
    """A delivery that was tried, with the values of its next state."""

    delivery: DeliveryRow
    values: dict[str, Any]


def _waiting(not_before: datetime, fault: Retry) -> dict[str, Any]:
    """The values of a delivery that is tried again."""
    pending = DeliveryState.PENDING
    return {"state": pending, "not_before": not_before, "reason": fault.reason, "detail": fault.detail}


def _unexpected(error: Exception) -> Retry:
    return Retry("sending-failed", f"the worker failed while sending ({type(error).__name__}); its log says where")


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

    def send_due(self, stop: threading.Event | None = None) -> int:
        """Send what is due over one connection, batch by batch. Returns the number of deliveries that were due."""
        due = self._claim()
        if not due:
            return 0
        try:
            with timed("delivery", "connect"):
                connection = self.destination.open(self.ae_title)
        except Retry as fault:
            self._give_back(due, fault)
            return len(due)
        except StartError as fault:  # its TLS files; they may be put right while this process runs
            self._give_back(due, Retry(fault.reason, fault.detail))
            return len(due)
        except Exception as error:
            self._give_back(due, _unexpected(error))
            raise
        count = 0
        with closing(connection):
            while due:
                count += len(due)
                try:
                    established = self._deliver_batch(connection, due)
                except Exception as error:
                    self._give_back(due, _unexpected(error))
                    raise
                self._audit([delivery.id for delivery, _ in due])
                more = established and count < _OBJECTS_OVER_A_CONNECTION and not (stop and stop.is_set())
                due = self._claim() if more else []
        return count

    def _give_back(self, due: Sequence[tuple[DeliveryRow, ObjectRow]], fault: Retry) -> None:
        """Have what is still claimed wait, with the reason: else it would stay "sending" until its lease ends."""
        self._record([self._later(delivery, fault) for delivery, _ in due])

    @property
    def _lease(self) -> timedelta:
        """Longer than an object can take, so that only the death of this process lets a lease expire."""
        return timedelta(seconds=self.destination.store_seconds * _LEASED_OBJECTS)

    def _promise_progress(self) -> None:
        """Promise the supervisor's watch to be here again before long: after an object, or without any."""
        self.promise(2 * self.destination.store_seconds + _ROUND_SECONDS)

    def _claim(self) -> list[tuple[DeliveryRow, ObjectRow]]:
        name = self.destination.name
        with self.database.read() as session:
            if is_suspended(session, Stage.DELIVERIES) or not delivery_waits(session, name, self.clock()):
                return []
        with self.database.write() as session:
            return claim_deliveries(session, name, self.owner, self.clock(), self._lease, limit=_BATCH)

    def _deliver_batch(self, connection: Connection, due: Sequence[tuple[DeliveryRow, ObjectRow]]) -> bool:
        """Deliver a batch and record how each ended. False when the connection was lost; the rest waits for another."""
        ended: list[_Ended] = []
        leased_until, recorded = self.clock() + self._lease, time.monotonic()
        leased, looked = {row.id for row, _ in due}, time.monotonic()
        try:
            for index, (delivery, produced) in enumerate(due):
                self._promise_progress()
                if self.clock() > leased_until - self._lease / 2:
                    leased_until = self.clock() + self._lease
                    with self.database.write() as session:
                        waiting = [row.id for row, _ in due[index:]]
                        extend_delivery_leases(session, waiting, self.owner, leased_until)
                if time.monotonic() - looked > _LOOK_SECONDS:
                    with self.database.read() as session:
                        leased = still_leased(session, [row.id for row, _ in due[index:]], self.owner)
                    looked = time.monotonic()
                if delivery.id not in leased:
                    continue
                try:
                    ended.append(self._deliver(connection, delivery, produced))
                except ConnectionLost as fault:
                    ended.append(self._later(delivery, fault))
                    # The others were not tried. They keep their attempts and wait a first delay, not this object's: it
                    # may be this object that ends connections.
                    not_before = self.clock() + backoff(1)
                    for row, _ in due[index + 1 :]:
                        ended.append(_Ended(row, _waiting(not_before, fault) | {"attempts": row.attempts - 1}))
                    return False
                if time.monotonic() - recorded > _RECORD_SECONDS:
                    self._record(ended)
                    ended, recorded = [], time.monotonic()
        finally:
            self._record(ended)
        return True

    def _audit(self, delivery_ids: list[int]) -> None:
        with self.database.read() as session:
            arrived = delivered(session, delivery_ids)
        peer = self.destination.describe()
        for transferred in arrived:
            self.record(events.sent(self.ae_title, peer.ae_title or self.destination.name, peer.host, transferred))

    def request_commitment(self) -> int:
        """Request storage commitment for delivered objects that lack it. Returns the number of objects."""
        destination = self.destination
        if destination.commitment_timeout is None:
            return 0
        with self.database.read() as session:
            if is_suspended(session, Stage.DELIVERIES):
                return 0
        now = self.clock()
        transaction_uid = derive_uid("commitment", destination.name, uuid.uuid4().hex)
        until = now + destination.commitment_timeout
        with self.database.write() as session:  # before the request: the report may arrive before the answer
            instances = claim_commitments(session, destination.name, transaction_uid, now, until)
        if instances:
            try:
                destination.request_commitment(self.ae_title, transaction_uid, instances, self._on_report)
            except (Retry, StartError) as fault:
                get_log().warning(
                    "storage commitment not requested",
                    destination=destination.name,
                    reason=fault.reason,
                    detail=fault.detail,
                )
        return len(instances)

    def _on_report(self, information: Dataset) -> int:
        return record_commitment_report(self.database, information, self.clock())

    def _deliver(self, connection: Connection, delivery: DeliveryRow, produced: ObjectRow) -> _Ended:
        """Store an object. Raises ConnectionLost."""
        try:
            with timed("delivery", "read"):
                ds = self._read(produced)
            with timed("delivery", "send"):
                status, sent_as = connection.store(ds)
        except Rejected as rejected:
            return self._rejected(delivery, rejected)
        except Park as fault:
            return _Ended(delivery, {"state": DeliveryState.FAILED, "reason": fault.reason, "detail": fault.detail})
        except ConnectionLost:
            raise
        except Retry as fault:
            return self._later(delivery, fault)
        values = {
            "state": DeliveryState.DELIVERED,
            "status": status,
            "delivered_at": self.clock(),
            "sent_as": sent_as,
            "commitment": Commitment.DUE if self.destination.commitment_timeout is not None else None,
            "reason": None,
            "detail": None,
        }
        return _Ended(delivery, values)

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

    def _rejected(self, delivery: DeliveryRow, rejected: Rejected) -> _Ended:
        rejections = delivery.rejections + 1
        common: dict[str, Any] = {
            "rejections": rejections,
            "status": rejected.status,
            "reason": rejected.reason,
            "detail": rejected.detail,
        }
        if rejections >= REJECTIONS_BEFORE_FAILED:
            return _Ended(delivery, common | {"state": DeliveryState.FAILED})
        not_before = self.clock() + backoff(rejections)
        return _Ended(delivery, common | {"state": DeliveryState.PENDING, "not_before": not_before})

    def _later(self, delivery: DeliveryRow, fault: Retry) -> _Ended:
        return _Ended(delivery, _waiting(self.clock() + backoff(delivery.attempts), fault))

    def _record(self, ended: Sequence[_Ended]) -> None:
        """Give deliveries their next states, in one transaction: half of what a small object takes is a commit."""
        if not ended:
            return
        with timed("delivery", "commit"), self.database.write() as session:
            recorded = [end for end in ended if end_delivery(session, end.delivery.id, self.owner, end.values)]
        for end in recorded:
            arrived = end.values["state"] == DeliveryState.DELIVERED
            write = get_log().info if arrived else get_log().warning
            write(
                "delivered" if arrived else "not delivered",
                delivery_row=end.delivery.id,
                destination=self.destination.name,
                state=end.values["state"],
                attempts=end.values.get("attempts", end.delivery.attempts),
                reason=end.values.get("reason"),
                detail=end.values.get("detail"),
            )

    def run(self, stop: threading.Event) -> None:
        """Send until `stop`; the current batch is completed."""
        with closing(Rest(self.database, partial(destination_waits, destination=self.destination.name))) as rest:
            while not stop.is_set():
                self._turn(rest, stop)

    def _turn(self, rest: Rest, stop: threading.Event) -> None:
        self._promise_progress()
        busy = False
        try:
            if rest.is_over():
                busy = self.send_due(stop) > 0
                if not busy and not self.request_commitment():
                    rest.begin()
        except Exception as error:  # a thread's boundary: the deliveries are due again when their lease expires
            get_log().error("sending failed", destination=self.destination.name, **fault_fields(error))
            stop.wait(_FIRST_DELAY_SECONDS)
        if not busy:
            stop.wait(rest.poll_seconds)
