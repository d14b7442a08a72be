"""Limits of what a peer may use of the receiver: connections, time, and memory before an instance is complete.

pynetdicom limits the number of associations and their silence. It reads a PDU of whatever length its header claims,
collects a dataset of whatever size, and waits forever in the middle of a PDU or of a TLS handshake; here all of these
are limited.
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
from io import BytesIO
from ipaddress import ip_address
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import ThreadedAssociationServer

from worker.config.sections import ReceiveSection
from worker.logs import fault_fields, get_log
from worker.network import pynetdicom_patches as patches
from worker.receive.fast_store import FastStore
from worker.storage.acceptance import StoreRequest

_MAXIMUM_COMMAND_BYTES = 1 << 16
_MAXIMUM_OTHER_PDU_BYTES = 1 << 18  # an A-ASSOCIATE-RQ with 128 contexts of 16 transfer syntaxes is half of it
_WAITING_MESSAGES = 4  # a conforming peer has 1, for no asynchronous operations window is negotiated (PS3.7 D.3.3.3)
_HANDSHAKE_SECONDS = 30.0
_SPARE_CONNECTIONS = 16
_READ_BYTES = 1 << 16
_NEGOTIATION_SECONDS = 60.0
_ABORT_SECONDS = 5.0


class TooLarge(BytesIO):
    """Stands for a dataset above `maximum_dataset_bytes`; empty."""


class LimitedMessages(DIMSEServiceProvider):  # type: ignore[misc]  # pynetdicom has no types for us
    """Collects messages, and holds no more of a dataset than `maximum_bytes`: what exceeds it is read and dropped."""

    def __init__(self, assoc: Association, maximum_bytes: int) -> None:
        super().__init__(assoc)
        self._maximum_bytes = maximum_bytes
        self._command_bytes = self._dataset_bytes = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Collect a part of a message; runs in the thread that reads the connection."""
        try:
            if self._admit(primitive):
                super().receive_primitive(primitive)
                return
        except Exception as error:  # a thread's boundary: hostile bytes may raise anything in the decoder
            get_log().warning("message not decoded", **fault_fields(error))
        self.message = None
        self.dul.event_queue.put(patches.INVALID_PDU)

    def _admit(self, primitive: P_DATA) -> bool:
        """False when the association must end; removes from the primitive what exceeds the limit of a dataset."""
        if self.msg_queue.qsize() >= _WAITING_MESSAGES:
            return False
        message = self.message
        if message is None:
            message = self.message = DIMSEMessage()
            self._command_bytes = self._dataset_bytes = 0
        values = primitive.presentation_data_value_list
        # PS3.8 E.2: bit 0 of the first byte is set for a fragment of the command.
        self._command_bytes += sum(len(data) - 1 for _, data in values if data[0] & 1)
        self._dataset_bytes += sum(len(data) - 1 for _, data in values if not data[0] & 1)
        if self._dataset_bytes > self._maximum_bytes:
            if not isinstance(message.data_set, TooLarge):
                message.data_set = TooLarge()
            kept = [[context, data if data[0] & 1 else data[:1]] for context, data in values]
            primitive.presentation_data_value_list = kept
        return self._command_bytes <= _MAXIMUM_COMMAND_BYTES


class _Handler(patches.ConnectionHandler):
    """Handles a connection."""

    server: LimitedServer

    def handle(self) -> None:
        """Do the TLS handshake here, because a silent peer would block the accept loop; then start the association."""
        if isinstance(self.request, ssl.SSLSocket):
            try:
                self.request.settimeout(min(_HANDSHAKE_SECONDS, self.server.limits.idle_seconds))
                self.request.do_handshake()
                self.request.settimeout(self.server.limits.idle_seconds)
            except OSError:
                self.server.on_refused(str(self.client_address[0]), "tls")
                self.server.shutdown_request(self.request)
                return
        super().handle()

    def prepare(self, assoc: Association) -> None:
        """Install the limits and the fast path of C-STORE in a new association."""
        limits = self.server.limits
        patches.replace_message_provider(assoc, LimitedMessages(assoc, limits.maximum_dataset_bytes))
        longest = max(limits.maximum_pdu_bytes, _MAXIMUM_OTHER_PDU_BYTES)
        patches.replace_recv(assoc, partial(_read, assoc, longest))
        self.server.opened[assoc] = time.monotonic()
        FastStore(assoc, longest, limits.maximum_dataset_bytes, partial(self.server.store, assoc)).take_over()
        assoc.bind(evt.EVT_FSM_TRANSITION, _end_negotiation)
        assoc.bind(evt.EVT_ESTABLISHED, lambda event: self.server.established.add(event.assoc))
        patches.replace_run(assoc, partial(_run_to_the_end, assoc))


def _end_negotiation(event: evt.Event) -> None:
    """Stop waiting for an A-ASSOCIATE-RQ where the connection ended or sent something else first.

    pynetdicom would wait for half a minute, in which the connection counts against the limit.
    """
    closing = (patches.IDLE, patches.AWAITING_CLOSE)
    if event.current_state == patches.AWAITING_REQUEST and event.next_state in closing:
        patches.signal_no_request(event.assoc)


def _run_to_the_end(assoc: Association, run: Callable[[], None]) -> None:
    """Report the end of the association even where an invalid event ends pynetdicom's reader, which reports nothing."""
    try:
        run()
    except Exception as error:  # a thread's boundary; hostile peers may bring it anywhere
        get_log().warning("association failed", **fault_fields(error))
    finally:
        evt.trigger(assoc, evt.EVT_CONN_CLOSE, {"address": assoc.requestor.address_info})


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
    """Closes a connection that is not allowed, or that exceeds the limit, before a byte of it is read.

    `on_refused` is called with the address and a stable word; `store` stores an instance and returns the status to
    answer.
    """

    daemon_threads = True  # a handshake that never ends does not delay the stop

    def __init__(
        self,
        *arguments: Any,
        limits: ReceiveSection,
        on_refused: Callable[[str, str], None],
        store: Callable[[Association, StoreRequest], int],
        **keywords: Any,
    ) -> None:
        self.limits = limits
        self.on_refused = on_refused
        self.store = store
        self.opened: WeakKeyDictionary[Association, float] = WeakKeyDictionary()
        self.established: WeakSet[Association] = WeakSet()
        super().__init__(*arguments, request_handler=_Handler, **keywords)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept the next connection; silence in the middle of a PDU will end it."""
        connection, address = self.socket.accept()
        connection.settimeout(self.limits.idle_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, _request: Any, client_address: Any) -> bool:
        """True for an allowed address, while the number of connections is below the limit."""
        networks = self.limits.allowed_networks
        address = ip_address(client_address[0])
        mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 peer on an IPv6 socket
        if networks and not any((mapped or address) in network for network in networks):
            self.on_refused(str(client_address[0]), "network")
            return False
        # Associations are limited in the negotiation, which tells the peer why. This is about connections before it,
        # each of which costs a thread while it is silent.
        if len(self.active_associations) >= 2 * self.limits.maximum_associations + _SPARE_CONNECTIONS:
            self.on_refused(str(client_address[0]), "too-many-connections")
            return False
        return True

    def stop_accepting(self) -> None:
        """Leave the accept loop; open associations continue."""
        socketserver.BaseServer.shutdown(self)

    def end_overdue(self) -> int:
        """Abort the associations that have lasted too long; the number of them. To be called regularly."""
        overdue = 0
        for assoc, opened in list(self.opened.items()):
            age = time.monotonic() - opened
            # An association that is ending, its release not answered yet, is no longer established, but was negotiated.
            negotiated = assoc in self.established
            limit = self.limits.maximum_association_seconds if negotiated else _NEGOTIATION_SECONDS
            if not assoc.is_alive() or age < limit:
                continue
            overdue += 1
            if age < limit + _ABORT_SECONDS and assoc.is_established:
                get_log().warning("association ended", reason="maximum_association_seconds")
                assoc.abort(block=False)
            else:
                _cut(assoc)
        return overdue

    def watch(self, stop: threading.Event, seconds: float = 1.0) -> None:
        """End overdue associations until `stop`."""
        while not stop.wait(seconds):
            try:
                self.end_overdue()
            except Exception as error:  # a thread's boundary; tried again after `seconds`
                get_log().error("association limits not checked", **fault_fields(error))


def _cut(assoc: Association) -> None:
    """Shut the connection down; a thread that waits for the rest of a PDU sees the end."""
    connection = patches.connection(assoc)
    if connection is not None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # already shut down
