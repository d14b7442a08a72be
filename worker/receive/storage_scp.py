"""The Storage SCP: the server of the DICOM port, its C-ECHO and C-STORE handlers, and the audit of who connected."""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RQ
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE
from pynetdicom.sop_class import Verification

from worker.audit import events
from worker.config.fingerprint import rules_fingerprint
from worker.config.sections import ReceiveSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationEnd
from worker.dicom import commitment, standard
from worker.errors import StartError
from worker.logs import fault_fields, get_log
from worker.network.known_peers import KnownPeers
from worker.network.limited_messages import TooLarge
from worker.network.listening import explain_binding
from worker.process import Promise, unwatched
from worker.receive.commitment_scp import CommitmentScp
from worker.receive.limits import LimitedServer
from worker.storage.acceptance import StoreRequest, beginning_of, require_storable
from worker.storage.associations import Associations
from worker.storage.keeper import InstanceKeeper
from worker.storage.pending import status_of
from worker.storage.refusals import Refusals, RefusedRequest
from worker.storage.spool import Spool
from worker.tls import server_context

_BIND_SECONDS = 3.0
_ENDING_PDUS = {A_RELEASE_RQ: AssociationEnd.RELEASED, A_ABORT_RQ: AssociationEnd.ABORTED}


class Receiver:
    """The Storage SCP of this process; it listens from `start` to `stop`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        clock: Callable[[], datetime],
        record: events.RecordEvent = events.unrecorded,
        services: Sequence[tuple[Any, Callable[..., Any]]] = (),
        promise: Promise = unwatched,
    ) -> None:
        """`services`: handlers of the other services on the port, by event; `promise`: of the acceptor."""
        self._settings = settings
        self._services = services
        self._promise = promise
        self._database = database
        self._clock = clock
        self._record = record
        self._associations = Associations(database, settings.worker.ae_title, clock, record)
        self._keeper = InstanceKeeper(
            database,
            settings.worker.data_dir,
            clock,
            settings.receive.minimum_free_bytes,
            settings.route,
            record,
            rules_fingerprint(settings),
        )
        self._spool = Spool(
            settings.worker.data_dir / "instances" / "incoming",
            settings.receive.memory_bytes,
            settings.receive.minimum_free_bytes,
        )
        self.refusals = Refusals(database, clock)
        self._open: dict[Association, int] = {}
        self._ends: WeakKeyDictionary[Association, AssociationEnd] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._ae = _application_entity(settings)
        self._server: Any = None
        self._stop = threading.Event()

    def start(self) -> None:
        """Start to listen. Raises StartError when the port is not available."""
        receive = self._settings.receive
        handlers = [
            (evt.EVT_ACSE_SENT, self._on_answer),
            (evt.EVT_ACSE_SENT, self._on_abort),
            (evt.EVT_C_ECHO, lambda _event: standard.SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_PDU_RECV, self._on_ending_pdu),
            (evt.EVT_PDU_SENT, self._on_ending_pdu),
            (evt.EVT_RELEASED, self._on_end),
            (evt.EVT_ABORTED, self._on_end),
            (evt.EVT_CONN_CLOSE, self._on_end),
            *CommitmentScp(self._settings, self._database, self._clock, self._record).handlers(),
            *self._services,
        ]
        deadline = time.monotonic() + _BIND_SECONDS
        while True:  # a worker that was just killed may still hold the port
            try:
                self._server = self._ae.make_server(
                    (receive.host, receive.port),
                    evt_handlers=handlers,
                    ssl_context=_tls(receive),
                    server_class=LimitedServer,
                    limits=receive,
                    spool=self._spool,
                    known=KnownPeers(
                        [*self._settings.peer, *self._settings.application_entities], receive.allowed_peers
                    ),
                    on_refused=self._on_refused_connection,
                    store=self._store,
                    promise=self._promise,
                )
            except (OSError, UnicodeError) as fault:
                if time.monotonic() > deadline:
                    why = explain_binding(fault, "receive", receive.host, receive.port)
                    raise StartError("port-unavailable", why) from None
                time.sleep(0.1)
            else:
                break
        threading.Thread(target=self._server.serve_forever, name="accept", daemon=True).start()
        threading.Thread(target=self._server.watch, args=(self._stop,), name="limits", daemon=True).start()

    def stop(self, grace_seconds: float) -> None:
        """Accept no new association; open ones may end within `grace_seconds`, then they are aborted."""
        if self._server is not None:
            deadline = time.monotonic() + grace_seconds
            self._stop.set()
            self._server.stop_accepting()
            while self._ae.active_associations and time.monotonic() < deadline:
                time.sleep(0.05)
            for assoc in self._ae.active_associations:
                assoc.abort()
            self._server.server_close()
        self._keeper.close()
        try:
            self.refusals.write()
        except Exception as error:  # a process's boundary: it ends anyway
            get_log().warning("refusals not counted", **fault_fields(error))

    def _on_refused_connection(self, address: str, reason: str) -> None:
        get_log().warning("connection refused", reason=reason, peer=address)
        self.refusals.connection(reason)
        if reason == "silent":  # it said nothing of which there could be a trail
            return
        self._record(events.connection_refused("unknown", address, self._settings.worker.ae_title, reason))

    def _on_answer(self, event: Event) -> None:
        """Audit how an association request was answered."""
        answer = event.primitive
        if not isinstance(answer, A_ASSOCIATE) or answer.result is None:
            return
        requestor = event.assoc.requestor
        calling, address, called = requestor.ae_title, str(requestor.address), requestor.primitive.called_ae_title
        if answer.result == 0:
            self._record(events.connected(calling, address, called))
        else:
            get_log().warning(
                "association refused", reason=answer.reason_str, ae_title=calling, called=called, peer=address
            )
            self.refusals.association(answer.result_source, answer.diagnostic)
            self._record(events.connection_refused(calling, address, called, answer.reason_str))

    def _on_store(self, event: Event) -> int:
        """Store what `fast_store` leaves to pynetdicom, such as a command in several fragments."""
        received = event.request
        too_large = isinstance(received.DataSet, TooLarge)
        request = StoreRequest(
            affected_sop_class_uid=str(received.AffectedSOPClassUID),
            affected_sop_instance_uid=str(received.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            encoded=b"" if too_large else event.encoded_dataset(),
            is_too_large=too_large,
        )
        return self._store(event.assoc, request)

    def _store(self, assoc: Association, request: StoreRequest) -> int:
        """Store an instance durably; the status to answer."""
        try:
            require_storable(request)
            request.association_id = self._association_row(assoc)
            outcome = self._keeper.keep(request)
        except Exception as fault:  # a handler's boundary: record and answer
            with self._lock:
                row = self._open.get(assoc)
            affected, address = request.affected_sop_instance_uid, str(assoc.requestor.address)
            return self.refusals.refuse(fault, RefusedRequest(beginning_of(request), affected, row, address))
        return status_of(outcome)

    def _association_row(self, assoc: Association) -> int:
        """The association's row, opened by its first instance: an echo leaves no trace in the database."""
        with self._lock:
            row = self._open.get(assoc)
        if row is None:
            row = self._associations.open(str(assoc.requestor.ae_title), str(assoc.requestor.address))
            with self._lock:
                self._open[assoc] = row
        return row

    def _on_ending_pdu(self, event: Event) -> None:
        """Note how the association ends, before it does: the first PDU that ends it decides, of either side."""
        end = _ENDING_PDUS.get(type(event.pdu))
        if end is not None:
            self._note_end(event.assoc, end)

    def _on_abort(self, event: Event) -> None:
        """Note an abort of ours: pynetdicom reports the end of the association before the PDU is sent."""
        if isinstance(event.primitive, A_ABORT):
            self._note_end(event.assoc, AssociationEnd.ABORTED)

    def _note_end(self, assoc: Association, end: AssociationEnd) -> None:
        with self._lock:
            self._ends.setdefault(assoc, end)

    def _on_end(self, event: Event) -> None:
        with self._lock:
            row = self._open.pop(event.assoc, None)
            end = self._ends.get(event.assoc, AssociationEnd.LOST)
        if row is not None:
            if end is not AssociationEnd.RELEASED:
                get_log().warning("transfer broke off", association_row=row, end=end)
            self._associations.close(row, end)


def _tls(receive: ReceiveSection) -> ssl.SSLContext | None:
    if receive.tls_certificate is None or receive.tls_key is None or receive.tls_authority is None:
        return None
    return server_context(receive.tls_certificate, receive.tls_key, receive.tls_authority)


def _application_entity(settings: Settings) -> AE:
    receive = settings.receive
    ae = AE(ae_title=settings.worker.ae_title)
    ae.maximum_associations = sys.maxsize  # `worker.receive.places` counts them
    ae.maximum_pdu_size = receive.maximum_pdu_bytes
    ae.network_timeout = receive.idle_seconds
    ae.acse_timeout = ae.dimse_timeout = 30
    ae.require_calling_aet = list(receive.allowed_peers)
    ae.require_called_aet = receive.require_called_ae_title
    ae.add_supported_context(Verification)
    # In both roles: a peer requests commitment of us (as SCU), or reports to us what it committed to (as SCP).
    # Not deflated, as pynetdicom would have it: a request of kilobytes would inflate to gigabytes.
    undeflated = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    ae.add_supported_context(commitment.SOP_CLASS, undeflated, scu_role=True, scp_role=True)
    for sop_class_uid in standard.RECEIVED_SOP_CLASSES:
        is_image = sop_class_uid in standard.STORAGE_SOP_CLASSES
        syntaxes = standard.TRANSFER_SYNTAXES if is_image else standard.DOCUMENT_TRANSFER_SYNTAXES
        ae.add_supported_context(sop_class_uid, list(syntaxes))
    return ae
