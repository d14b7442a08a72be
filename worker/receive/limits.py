"""Limits of what a peer may use of the receiver: connections, time, and memory before an instance is complete.

pynetdicom limits the number of associations and their silence, and counts connections that never request any. It reads
a PDU of whatever length its header claims, collects a dataset of whatever size, and waits forever in the middle of a
PDU or of a TLS handshake; here all of these are limited. `worker.receive.places` decides who may stay.
"""

from __future__ import annotations

import errno
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE, N_ACTION, N_EVENT_REPORT
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer

from worker.config.sections import ReceiveSection
from worker.dicom import commitment, standard
from worker.logs import fault_fields, get_log
from worker.network import pynetdicom_patches as patches
from worker.network.known_peers import KnownPeers, plain_address
from worker.network.limited_messages import LARGEST_OTHER_DATASET, LimitedMessages, TooLarge
from worker.process import Promise, unwatched
from worker.receive.fast_store import FastStore
from worker.receive.places import Place, Places, address_group
from worker.storage.acceptance import StoreRequest
from worker.storage.spool import Spool

_MAXIMUM_OTHER_PDU_BYTES = 1 << 18  # an A-ASSOCIATE-RQ with 128 contexts of 16 transfer syntaxes is half of it
_READ_BYTES = 1 << 16
_ABORT_SECONDS = 5.0
_ROUND_SECONDS = 20.0  # of the acceptor, which does nothing that waits
_DATASETS = ("Identifier", "ActionInformation", "EventInformation", "AttributeList", "ModificationList")
_OPERATIONS: dict[str, tuple[type, ...]] = {  # of each SOP class; any other is a Storage SOP class
    str(Verification): (C_ECHO,),
    commitment.SOP_CLASS: (N_ACTION, N_EVENT_REPORT),
    **dict.fromkeys(standard.QUERY_RETRIEVE, (C_FIND, C_GET, C_MOVE)),
}
_LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)  # result, source, diagnostic of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)


class _Handler(patches.ConnectionHandler):
    """Handles a connection."""

    server: LimitedServer

    def handle(self) -> None:
        """Do the TLS handshake here, because a silent peer would block the accept loop; then start the association."""
        if isinstance(self.request, ssl.SSLSocket):
            try:
                self.request.settimeout(self.server.limits.request_seconds)
                self.request.do_handshake()
                self.request.settimeout(self.server.limits.idle_seconds)
            except (OSError, ValueError):  # ValueError: cut in its middle
                self.server.on_refused(str(self.client_address[0]), "tls")
                self.server.shutdown_request(self.request)
                return
        super().handle()

    def prepare(self, assoc: Association) -> None:
        """Install the limits and the fast path of C-STORE in a new association."""
        limits, place = self.server.limits, self.server.place_of(self.request)
        place.end = partial(_abort, assoc)
        maximum_bytes = min(limits.maximum_dataset_bytes, LARGEST_OTHER_DATASET)
        patches.replace_message_provider(assoc, LimitedMessages(assoc, maximum_bytes))
        longest = max(limits.maximum_pdu_bytes, _MAXIMUM_OTHER_PDU_BYTES)
        patches.replace_recv(assoc, partial(_read, assoc, longest))
        store = partial(self.server.store, assoc)
        FastStore(assoc, place, longest, self.server.spool, limits.maximum_dataset_bytes, store).take_over()
        assoc.bind(evt.EVT_FSM_TRANSITION, self._on_transition)
        assoc.bind(evt.EVT_REQUESTED, self._on_request, [place])
        assoc.bind(evt.EVT_ESTABLISHED, self._on_established, [place])
        patches.replace_run(assoc, partial(self._run_to_the_end, assoc, self.request))

    def _on_transition(self, event: evt.Event) -> None:
        """Stop waiting for an A-ASSOCIATE-RQ where the connection ended or sent something else first.

        pynetdicom would wait for half a minute, and would tell nobody.
        """
        if event.current_state != patches.AWAITING_REQUEST:
            return
        if event.next_state == patches.AWAITING_CLOSE:
            is_version = event.fsm_event == patches.REQUEST_RECEIVED  # what AE-6 of PS3.8 rejects
            reason = "protocol-version" if is_version else "malformed-request"
            self.server.on_refused(str(self.client_address[0]), reason)
        if event.next_state in (patches.IDLE, patches.AWAITING_CLOSE):
            patches.signal_no_request(event.assoc)

    def _on_request(self, event: evt.Event, place: Place) -> None:
        """Reject the association where its address or AE title has used up its share, or all places are taken."""
        assoc = event.assoc
        if assoc.is_aborted or assoc.is_rejected or not self.server.is_title_allowed(assoc):
            return  # rejected by pynetdicom with its own reason
        if not self.server.admit(place, str(assoc.requestor.primitive.calling_ae_title).strip()):
            patches.reject(assoc, *_LOCAL_LIMIT_EXCEEDED)

    def _on_established(self, event: evt.Event, place: Place) -> None:
        patches.replace_message_server(event.assoc, partial(_serve, event.assoc, place))

    def _run_to_the_end(self, assoc: Association, request: Any, run: Callable[[], None]) -> None:
        """Report the end of the association even where an invalid event ends pynetdicom's reader."""
        try:
            run()
        except Exception as error:  # a thread's boundary; hostile peers may bring it anywhere
            get_log().warning("association failed", **fault_fields(error))
        finally:
            self.server.leave(request)
            evt.trigger(assoc, evt.EVT_CONN_CLOSE, {"address": assoc.requestor.address_info})


def _serve(assoc: Association, place: Place, serve: Callable[[Any, int], None], message: Any, context_id: int) -> None:
    """Answer a message. An association that only sends C-ECHO counts as idle."""
    if not message.is_valid_request:
        _refuse(assoc, message, context_id)
        return
    if not _is_operation_of_context(assoc, message, context_id):
        get_log().warning("request refused", reason="unrecognized-operation")
        patches.send_status(assoc, message, context_id, standard.UNRECOGNIZED_OPERATION)
        return
    if not isinstance(message, C_STORE) and any(
        isinstance(getattr(message, name, None), TooLarge) for name in _DATASETS
    ):
        get_log().warning("request refused", reason="dataset-too-large")
        patches.send_status(assoc, message, context_id, standard.RESOURCE_LIMITATION)
        return
    if isinstance(message, C_ECHO):
        serve(message, context_id)
        return
    place.begin_work()
    try:
        serve(message, context_id)
    finally:
        place.end_work()


def _is_operation_of_context(assoc: Association, message: Any, context_id: int) -> bool:
    """Whether a message's operation is one of its SOP class, and the SOP class that of its presentation context.

    pynetdicom calls the service of whatever class a message names. Another Storage SOP class is refused when storing.
    """
    named = getattr(message, "AffectedSOPClassUID", None) or getattr(message, "RequestedSOPClassUID", None)
    context = patches.accepted_context(assoc, context_id)
    is_storage = isinstance(message, C_STORE) and named not in _OPERATIONS
    is_same = context is None or is_storage or named == context.abstract_syntax
    return is_same and isinstance(message, _OPERATIONS.get(str(named), (C_STORE,)))


def _refuse(assoc: Association, message: Any, context_id: int) -> None:
    """Answer a request that lacks an attribute, which pynetdicom would ignore; abort for a response to nothing."""
    if getattr(message, "MessageID", None) is None or message.MessageIDBeingRespondedTo is not None:
        assoc.abort(block=False)
        return
    get_log().warning("request refused", reason="missing-attribute")
    patches.send_status(assoc, message, context_id, standard.MISSING_ATTRIBUTE)


def _read(assoc: Association, longest: int, count: int) -> bytearray:
    """In place of AssociationSocket.recv: `count` bytes, fewer at the end of the connection.

    Raises OSError for a PDU longer than `longest`, of which nothing is read, and for silence in the middle of a PDU.
    """
    if count > longest:
        raise OSError(errno.EMSGSIZE, "PDU exceeds the maximum length")
    content = bytearray()
    while len(content) < count:
        received = patches.connection(assoc).recv(min(count - len(content), _READ_BYTES))
        if not received:
            break
        content += received
    return content


class LimitedServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Closes a connection that is not allowed before a byte of it is read, and shares the others' places.

    `on_refused` is called with the address and a stable word; `store` stores an instance and returns the status to
    answer.
    """

    daemon_threads = True  # a handshake that never ends does not delay the stop
    request_queue_size = 128  # connections that wait to be accepted; pynetdicom's 5 fill in a burst

    def __init__(
        self,
        *arguments: Any,
        limits: ReceiveSection,
        known: KnownPeers,
        spool: Spool,
        on_refused: Callable[[str, str], None],
        store: Callable[[Association, StoreRequest], int],
        promise: Promise = unwatched,
        **keywords: Any,
    ) -> None:
        self.limits = limits
        self.on_refused = on_refused
        self.store = store
        self._promise = promise
        self.spool = spool
        self._known = known
        self._places = Places(limits, reserve=bool(known))
        self._by_connection: dict[int, Place] = {}
        super().__init__(*arguments, request_handler=_Handler, **keywords)

    def service_actions(self) -> None:
        """Tell that the acceptor goes round, which it does twice a second."""
        super().service_actions()
        self._promise(_ROUND_SECONDS)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept the next connection; silence in the middle of a PDU will end it."""
        connection, address = self.socket.accept()
        connection.settimeout(self.limits.idle_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """True for an allowed address; the connection then has a place among the silent ones."""
        address = str(client_address[0])
        networks, plain = self.limits.allowed_networks, plain_address(address)
        if networks and not any(plain in network for network in networks):
            self.on_refused(address, "network")
            return False
        place = Place(str(plain or address), address_group(plain), time.monotonic(), partial(_cut, request))
        self._by_connection[id(request)] = place
        victim = self._places.connect(place)
        if victim is not None:
            self.on_refused(victim.address, "silent")
            victim.cut()
        return True

    def place_of(self, request: Any) -> Place:
        """The place of a connection that was accepted."""
        return self._by_connection[id(request)]

    def is_title_allowed(self, assoc: Association) -> bool:
        """Whether the AE titles of a request are accepted: pynetdicom rejects the others."""
        allowed, request = self.limits.allowed_peers, assoc.requestor.primitive
        called = not self.limits.require_called_ae_title or request.called_ae_title == self.ae_title
        return called and (not allowed or request.calling_ae_title in allowed)

    def admit(self, place: Place, ae_title: str) -> bool:
        """Whether a connection gets its association; idle ones may have to end for it."""
        admitted, ended = self._places.admit(place, ae_title, self._known.is_known(ae_title, place.address))
        for other in ended:
            get_log().warning("association ended", reason="yield_seconds", peer=other.address)
            if other.end is not None:
                other.end()
        return admitted

    def leave(self, request: Any) -> None:
        """A connection has ended."""
        place = self._by_connection.pop(id(request), None)
        if place is not None:
            self._places.leave(place)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self.leave(request)
        super().shutdown_request(request)

    def stop_accepting(self) -> None:
        """Leave the accept loop; open associations continue."""
        socketserver.BaseServer.shutdown(self)

    def end_overdue(self) -> int:
        """End what has lasted too long: silence before an association, and associations; the number of them.

        To be called regularly.
        """
        now, overdue = time.monotonic(), 0
        for place in self._places.overdue(now):
            overdue += 1
            if place.ended_at is None:
                self.on_refused(place.address, "silent")
            place.cut()
        for place in self._places.admitted():
            age = now - place.admitted_at
            if age < self.limits.maximum_association_seconds:
                continue
            overdue += 1
            if age < self.limits.maximum_association_seconds + _ABORT_SECONDS and place.end is not None:
                get_log().warning("association ended", reason="maximum_association_seconds")
                place.end()
            else:
                place.cut()
        return overdue

    def watch(self, stop: threading.Event, seconds: float = 1.0) -> None:
        """End overdue associations until `stop`."""
        while not stop.wait(seconds):
            try:
                self.end_overdue()
            except Exception as error:  # a thread's boundary; tried again after `seconds`
                get_log().error("association limits not checked", **fault_fields(error))


def _abort(assoc: Association) -> None:
    """End an association by an A-ABORT."""
    if assoc.is_established:
        assoc.abort(block=False)


def _cut(connection: Any) -> None:
    """Shut a connection down; a thread that waits for the rest of a PDU, or of a TLS handshake, sees the end."""
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # an SSLSocket's own would forget its session
    except OSError:
        return  # already shut down
