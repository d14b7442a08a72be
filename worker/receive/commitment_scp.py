"""Storage commitment (PS3.4 Annex J) on our port: as SCP for what peers sent us, and the reports of our destinations.

A request is answered from what is really on disk, with each file's hash verified.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from pydicom import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association

from worker.audit import events
from worker.config.sections import ApplicationEntity
from worker.config.settings import Settings
from worker.db.deliveries import record_commitment_report
from worker.db.engine import Database, Session
from worker.db.instances import StoredFile, file_of, stored_instances
from worker.db.results import objects_of
from worker.db.tables import FileKind
from worker.dicom import commitment, standard
from worker.errors import Retry
from worker.logs import fault_fields, get_log
from worker.network.associate import associate
from worker.network.known_peers import KnownPeers
from worker.storage.integrity import Integrity

MAXIMUM_REFERENCES = 10_000  # of a request: PS3.4 sets none, and no study has more
OPEN_OF_A_PEER = 8  # requests of an address that are not answered yet
OPEN_REQUESTS = 32
_THREADS = 2
_REPORTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class _Request:
    """An accepted request whose report is still to be sent."""

    assoc: Association
    ae_title: str
    address: str
    transaction_uid: str
    instances: Sequence[tuple[str, str]]


class CommitmentScp:
    """Handles N-ACTION (a peer requests commitment) and N-EVENT-REPORT (a destination reports what it committed to).

    A few threads verify what is asked for and send the reports, to a configured peer over a new association, to anybody
    else over its own, while that lasts: an AE title that a stranger claims makes us call nobody.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        clock: Callable[[], datetime],
        record: events.RecordEvent = events.unrecorded,
    ) -> None:
        self._integrity = Integrity(database, settings.worker.data_dir, clock, record)
        self._ae_title = settings.worker.ae_title
        self._peers = KnownPeers([*settings.application_entities, *settings.peer])
        self._database = database
        self._clock = clock
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._open: Counter[str] = Counter()  # requests by address
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._turns: WeakKeyDictionary[Association, threading.Lock] = WeakKeyDictionary()
        self._reports = threading.BoundedSemaphore(_REPORTS_AT_ONCE)

    def handlers(self) -> list[tuple[Any, Callable[..., Any]]]:
        """The handlers, by pynetdicom's events."""
        return [(evt.EVT_N_ACTION, self._on_request), (evt.EVT_N_EVENT_REPORT, self._on_report)]

    def _on_request(self, event: evt.Event) -> tuple[int, None]:
        """Accept a request; the report follows from a thread of its own."""
        if event.request.RequestedSOPInstanceUID != commitment.SOP_INSTANCE:
            return standard.NO_SUCH_SOP_INSTANCE, None
        if event.action_type != commitment.REQUEST_ACTION:
            return standard.NO_SUCH_ACTION, None
        if commitment.count_items(event.request.ActionInformation) > MAXIMUM_REFERENCES:
            return self._refuse("too-many-references")
        try:
            transaction_uid, instances = commitment.read_request(event.action_information)
        except commitment.MalformedCommitment:
            return standard.PROCESSING_FAILURE, None
        requestor = event.assoc.requestor
        title, address = str(requestor.ae_title).strip(), str(requestor.address)
        with self._lock:
            if self._open[address] >= OPEN_OF_A_PEER or self._open.total() >= OPEN_REQUESTS:
                return self._refuse("too-many-requests")
            self._open[address] += 1
            if len(self._threads) < min(_THREADS, self._open.total()):
                self._threads.append(threading.Thread(target=self._work, name="commitment", daemon=True))
                self._threads[-1].start()
        self._requests.put(_Request(event.assoc, title, address, transaction_uid, instances))
        return standard.SUCCESS, None

    @staticmethod
    def _refuse(reason: str) -> tuple[int, None]:
        get_log().warning("storage commitment refused", reason=reason)
        return standard.RESOURCE_LIMITATION, None

    def _work(self) -> None:
        """Answer requests, for as long as the process runs."""
        while True:
            request = self._requests.get()
            try:
                self._answer(request)
            except Retry as fault:  # the peer requests it again (PS3.4 J.3.2.1.2 leaves that to it)
                get_log().warning("storage commitment report not delivered", reason=fault.reason)
            except Exception as error:  # a thread's boundary
                get_log().error("storage commitment failed", **fault_fields(error))
            finally:
                with self._lock:
                    self._open[request.address] -= 1
                    self._open += Counter()  # without those that are 0
                del request  # its association is not held while the next request is waited for

    def _answer(self, request: _Request) -> None:
        peer = self._peers.find(request.ae_title, request.address)
        if peer is None and not request.assoc.is_established:
            raise Retry("report-not-taken", "the peer ended the association and is not configured")
        information = examine(self._database, self._integrity, request.transaction_uid, request.instances)
        if peer is None:
            self._report_over(request.assoc, information)
            return
        try:
            assoc = associate_as_scp(peer, self._ae_title)
        except Retry:
            if not request.assoc.is_established:
                raise
            self._report_over(request.assoc, information)
            return
        try:
            send_report(assoc, information)
        finally:
            if assoc.is_established:
                assoc.release()

    def _report_over(self, assoc: Association, information: Dataset) -> None:
        """Send the report over the association of the request, after any report that waits for its answer there."""
        with self._lock:
            turn = self._turns.setdefault(assoc, threading.Lock())
        with turn:
            send_report(assoc, information)

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        """Record what a destination commits to, on an association of its own."""
        if event.request.AffectedSOPInstanceUID != commitment.SOP_INSTANCE:
            return standard.NO_SUCH_SOP_INSTANCE, None
        if event.event_type not in (commitment.ALL_STORED_EVENT, commitment.SOME_FAILED_EVENT):
            return standard.NO_SUCH_EVENT_TYPE, None
        if commitment.count_items(event.request.EventInformation) > MAXIMUM_REFERENCES:
            return self._refuse("too-many-references")
        if not self._reports.acquire(blocking=False):  # pynetdicom has a thread for each
            return self._refuse("too-many-reports")
        try:
            return record_commitment_report(self._database, event.event_information, self._clock()), None
        except Exception as error:  # a handler's boundary: record and answer
            get_log().error("storage commitment report not recorded", **fault_fields(error))
            return standard.PROCESSING_FAILURE, None
        finally:
            self._reports.release()


def examine(
    database: Database, integrity: Integrity, transaction_uid: str, instances: Sequence[tuple[str, str]]
) -> Dataset:
    """The Event Information for a request: the instances that are stored intact, and the others with the reason."""
    with database.read() as session:
        held = _held(session, list({uid: None for _, uid in instances}))
    faults = integrity.check([file for _, file in held.values() if file is not None])
    committed: list[tuple[str, str]] = []
    failed: list[tuple[str, str, int]] = []
    for sop_class_uid, uid in instances:
        held_class, file = held.get(uid, (None, None))
        if held_class is None:
            failed.append((sop_class_uid, uid, commitment.NO_SUCH_OBJECT))
        elif held_class != sop_class_uid:
            failed.append((sop_class_uid, uid, commitment.CLASS_INSTANCE_CONFLICT))
        elif file is None or file.path in faults:
            failed.append((sop_class_uid, uid, standard.PROCESSING_FAILURE))
        else:
            committed.append((sop_class_uid, uid))
    return commitment.build_report(transaction_uid, committed, failed)


def _held(session: Session, uids: Sequence[str]) -> dict[str, tuple[str, StoredFile | None]]:
    """SOP class and file (None: deleted by retention) of each instance that was received, or made and sent back."""
    held: dict[str, tuple[str, StoredFile | None]] = {
        row.sop_instance_uid: (row.sop_class_uid, StoredFile(FileKind.OBJECT, row.id, row.path, row.sha256))
        for row in objects_of(session, uids)
    }
    for uid, row in stored_instances(session, uids).items():
        held[uid] = (row.sop_class_uid, file_of(row) if row.removed_at is None else None)
    return held


def send_report(assoc: Association, information: Dataset) -> None:
    """N-EVENT-REPORT over an association. Raises Retry when the peer does not accept it."""
    event = commitment.SOME_FAILED_EVENT if "FailedSOPSequence" in information else commitment.ALL_STORED_EVENT
    try:
        answer, _ = assoc.send_n_event_report(information, event, commitment.SOP_CLASS, commitment.SOP_INSTANCE)
    except (RuntimeError, ValueError):
        raise Retry("report-not-taken", "the peer ended the association or does not support reports") from None
    if "Status" not in answer or answer.Status != standard.SUCCESS:
        raise Retry("report-not-taken", "the peer did not accept the storage commitment report")


def associate_as_scp(peer: ApplicationEntity, ae_title: str) -> Association:
    """A new association in which we are the SCP of storage commitment. Raises Retry when the peer is unreachable."""
    role = build_role(commitment.SOP_CLASS, scp_role=True)
    contexts = [build_context(commitment.SOP_CLASS)]
    return associate(peer, ae_title, contexts, service="storage commitment reports", roles=[role])
