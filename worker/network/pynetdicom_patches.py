"""Every internal of pynetdicom that we replace or use, in one place.

An association of pynetdicom is two threads: its upper layer (`assoc.dul`) reads the connection and runs the state
machine of PS3.8 9.2, its reactor (`assoc.run`) answers messages. `worker.receive.fast_store` and `.limits` explain what
the receive role replaces in them; the Query/Retrieve SCP sends files over an association that it is answering.

pyproject.toml pins pynetdicom's minor version. Assigning to an attribute that an upgrade has renamed would do nothing,
silently, so tests/unit/network/test_pynetdicom_patches.py resolves each attribute chain `assoc.…` of this file on a
new association.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from pynetdicom import AE, _config, association, events, evt, service_class
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket, RequestHandler

from worker.dicom.header import parse_message

# Events of the state machine (PS3.8 9.2.2).
REQUEST_RECEIVED = "Evt6"
CONNECTION_CLOSED = "Evt17"
INVALID_PDU = "Evt19"  # unrecognised or invalid; the association is aborted
PROVIDER_ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 6])  # A-ABORT: the provider's, invalid PDU parameter (PS3.8 9.3.8)
# Its states (PS3.8 Table 9-10).
IDLE, AWAITING_REQUEST, ESTABLISHED, AWAITING_CLOSE = "Sta1", "Sta2", "Sta6", "Sta13"


# Identifiers and the information of N-ACTION and N-EVENT-REPORT come from peers, as instances do: pydicom would build
# every item of a bomb. Whatever imports this module decodes within the budgets of worker.dicom.walk.
for _module in (association, events, service_class):
    _module.decode = parse_message
# Nor does it make text of each for a log that nobody writes.
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False


class ConnectionHandler(RequestHandler):  # type: ignore[misc]  # pynetdicom has no types for us
    """Handles a connection to our server; a subclass prepares its association before the threads start."""

    def prepare(self, assoc: Association) -> None:
        """Replace what is to be replaced."""
        raise NotImplementedError

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        self.prepare(assoc)
        return assoc


class ConnectingSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom has no types for us
    """The socket of an association that we request: `fault` is why it could not connect, which pynetdicom only logs."""

    fault: OSError | None = None

    def _shutdown_socket(self) -> None:
        fault = sys.exception()  # `connect` handles it by this call
        if isinstance(fault, OSError) and self.fault is None:
            self.fault = fault.with_traceback(None)  # its frames hold this socket
        super()._shutdown_socket()
        if self.socket is not None:  # pynetdicom leaves a socket open that was never connected
            self.socket.close()


class Requestor(AE):  # type: ignore[misc]  # pynetdicom has no types for us
    """An application entity that requests one association, and knows why it could not connect for it."""

    _socket: ConnectingSocket | None = None

    @property
    def fault(self) -> OSError | None:
        """Why the connection could not be made, its TLS handshake included; None where it was made."""
        return self._socket.fault if self._socket is not None else None

    def _create_socket(self, assoc: Association, address: AddressInformation, tls_args: Any) -> ConnectingSocket:
        self._socket = ConnectingSocket(assoc, address=address)
        self._socket.tls_args = tls_args
        return self._socket


class ReactorGate(threading.Event):
    """In place of an association's `_reactor_checkpoint`: pauses its reactor without a race.

    A send_*() method pauses the reactor (`clear`, then it polls `_is_paused`) and reads the answer itself. The reactor
    sets `_is_paused` False only after `wait` has returned, so that a sender which pauses it in between takes it for
    paused; the reactor then takes the answer, and the sender waits for its DIMSE time-out, mostly 30 s, and aborts.
    Here `_is_paused` becomes False before `wait` returns, under the lock that `clear` takes too.
    """

    def __init__(self, assoc: Association) -> None:
        super().__init__()
        self._assoc = assoc
        self._lock = threading.Lock()
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        while True:
            if not super().wait(timeout):
                return False
            with self._lock:
                if self.is_set():
                    self._assoc._is_paused = False
                    return True

    def clear(self) -> None:
        with self._lock:
            super().clear()


# --- replacements, made before the association's threads start -------------------------------------------------


def replace_reader(assoc: Association, read: Callable[[], bool]) -> Callable[[], bool]:
    """Have the upper layer call `read`, which waits for the connection itself; the method that it replaces.

    Either method returns True when it put an event on the queue or read something.
    """
    original: Callable[[], bool] = assoc.dul._is_transport_event
    assoc.dul._is_transport_event = read
    assoc.dul._run_loop_delay = 0.0
    return original


def replace_upper_layer_run(assoc: Association, run: Callable[[Callable[[], None]], None]) -> None:
    """Have the upper layer's thread call `run` with what it would have run."""
    assoc.dul.run = partial(run, assoc.dul.run)


def wake_upper_layer_by(assoc: Association, wake: Callable[[], None]) -> None:
    """Have `wake` called after another thread gave the upper layer something to send, or told it to end."""
    send, kill = assoc.dul.send_pdu, assoc.dul.kill_dul

    def send_and_wake(primitive: Any) -> None:
        send(primitive)
        wake()

    def kill_and_wake() -> None:
        kill()
        wake()

    assoc.dul.send_pdu, assoc.dul.kill_dul = send_and_wake, kill_and_wake


def replace_recv(assoc: Association, recv: Callable[[int], bytearray]) -> None:
    """Have the upper layer read so many bytes of the connection by `recv`."""
    assoc.dul.socket.recv = recv


def replace_reactor_sleep(assoc: Association, work: threading.Event, seconds: float) -> None:
    """Have the reactor wait for `work`, at most `seconds`, before each of its looks, which are a millisecond apart."""
    assoc._reactor_checkpoint = ReactorGate(assoc)
    wait_for_leave = assoc._reactor_checkpoint.wait

    def wait_for_work(timeout: float | None = None) -> bool:
        work.wait(seconds)
        work.clear()
        return bool(wait_for_leave(timeout))

    assoc._reactor_checkpoint.wait = wait_for_work


def send_messages_under(assoc: Association, lock: threading.Lock) -> None:
    """Have whole messages sent under `lock`, command and dataset together."""
    send = assoc.dimse.send_msg

    def send_whole(*arguments: Any) -> None:
        with lock:
            send(*arguments)

    assoc.dimse.send_msg = send_whole


def replace_message_provider(assoc: Association, provider: Any) -> None:
    """Have a DIMSEServiceProvider of ours collect messages."""
    assoc.dimse = provider


def replace_run(assoc: Association, run: Callable[[Callable[[], None]], None]) -> None:
    """Have the reactor's thread call `run` with what it would have run."""
    assoc.run = partial(run, assoc.run)


def replace_message_server(assoc: Association, serve: Callable[[Callable[[Any, int], None], Any, int], None]) -> None:
    """Have `serve` answer messages; it gets pynetdicom's own method, the message and its presentation context's number.

    May be called while the association is being negotiated.
    """
    assoc._serve_request = partial(serve, assoc._serve_request)


def send_files_undecoded() -> None:
    """Have `send_c_store` of a path send the dataset's bytes as they are, in parts, for this process."""
    _config.STORE_SEND_CHUNKED_DATASET = True


def take_any_move_destination() -> None:
    """Accept C-MOVE requests whose destination is not a valid AE title, or is padded with NUL, in this process.

    pynetdicom would abort the association; the SCP answers that it does not know the destination.
    """

    def keep(message: C_MOVE, value: str | None) -> None:
        message._move_destination = None if value is None else str(value)

    C_MOVE.MoveDestination = C_MOVE.MoveDestination.setter(keep)


# --- the upper layer -------------------------------------------------------------------------------------------


def connection(assoc: Association) -> Any:
    """The socket, or None once the connection is closed."""
    return assoc.dul.socket.socket if assoc.dul.socket is not None else None


def state(assoc: Association) -> str:
    """The state of the association: PS3.8 Table 9-10."""
    return str(assoc.dul.state_machine.current_state)


def signal(assoc: Association, event: str) -> None:
    """Give the state machine an event: PS3.8 9.2.2."""
    assoc.dul.event_queue.put(event)


def signal_pdu(assoc: Association, pdu: bytearray) -> None:
    """Have pynetdicom decode and answer a whole PDU that we have read."""
    try:
        decoded, event = assoc.dul._decode_pdu(pdu)
    except Exception:  # hostile bytes may raise anything in the decoder; the answer is the same
        signal(assoc, INVALID_PDU)
        return
    assoc.dul.event_queue.put(event)
    assoc.dul._recv_pdu.put(decoded)


def reject(assoc: Association, result: int, source: int, diagnostic: int) -> None:
    """Answer an association request with an A-ASSOCIATE-RJ; for the handler of EVT_REQUESTED."""
    assoc.acse.send_reject(result, source, diagnostic)
    assoc.is_rejected = True
    evt.trigger(assoc, evt.EVT_REJECTED, {})
    assoc.kill()


def signal_no_request(assoc: Association) -> None:
    """End the reactor's wait for an A-ASSOCIATE-RQ."""
    assoc.dul.to_user_queue.put(None)


def end_at_once(assoc: Association) -> None:
    """End both threads after one of them failed, past the state machine: an A-ABORT, and the end of the connection."""
    assoc.is_aborted, assoc.is_established = True, False
    assoc._kill = assoc.dul._kill_thread = True
    socket = assoc.dul.socket
    if socket is not None and socket.socket is not None:
        socket.send(PROVIDER_ABORT)
        socket.close()


def is_stopping(assoc: Association) -> bool:
    """True when the upper layer's thread is to end."""
    return bool(assoc.dul._kill_thread)


def unsent(assoc: Association) -> Sequence[Any]:
    """The primitives that wait to be sent."""
    return assoc.dul.to_provider_queue.queue  # type: ignore[no-any-return]


def send_bytes(assoc: Association, pdu: bytes) -> None:
    """Send a whole PDU past the state machine."""
    assoc.dul.socket.send(pdu)


def send_primitive(assoc: Association, primitive: Any) -> None:
    """Send a primitive after those that wait."""
    assoc.dul.send_pdu(primitive)


def restart_idle_timer(assoc: Association) -> None:
    """Count the peer's silence from now on."""
    assoc.dul._idle_timer.restart()


def stop_idle_timer(assoc: Association) -> None:
    """Count no silence while the peer waits for us."""
    assoc.dul._idle_timer.stop()


# --- the reactor and the messages ------------------------------------------------------------------------------


def accepted_context(assoc: Association, context_id: int) -> PresentationContext | None:
    """The accepted presentation context of that number."""
    return assoc._accepted_cx.get(context_id)


@contextmanager
def answering_itself(assoc: Association) -> Iterator[None]:
    """Inside, what we send over an association that we are answering reads its responses itself, not the reactor."""
    assoc._is_paused = True
    try:
        yield
    finally:
        assoc._is_paused = False


def send_status(assoc: Association, request: Any, context_id: int, status: int) -> None:
    """Answer a message by a status alone."""
    response = type(request)()
    response.MessageIDBeingRespondedTo, response.Status = request.MessageID, status
    assoc.dimse.send_msg(response, context_id)


def resume_reactor(assoc: Association) -> None:
    """Let the reactor go on after a request of ours that raised: pynetdicom leaves it waiting."""
    assoc._reactor_checkpoint.set()


# --- replacements, made while no message is sent ----------------------------------------------------------------


def pause_reactor_without_race(assoc: Association) -> None:
    """Replace the checkpoint of an association that we requested and have sent nothing over: see `ReactorGate`."""
    checkpoint, assoc._reactor_checkpoint = assoc._reactor_checkpoint, ReactorGate(assoc)
    checkpoint.set()  # whoever waits at the old checkpoint goes on


def send_at_once(assoc: Association) -> None:
    """Have an established association that we requested wait for no timer, TCP's or the upper layer's.

    Ours (TCP_NODELAY): a request's second PDU would wait up to 40 ms for the first's receipt. The peer's (TCP_QUICKACK,
    which each answer uses up): DCMTK writes a PDU's head and its body one after the other, and the body waits for the
    head's receipt, which Linux delays by 40 ms. And each fragment of a dataset would wait for a round of the upper
    layer's thread: it is sent as that would send it (PS3.8 9.2.3, DT-1), but not by TLS, of whose connection two
    threads may not read and write at once.
    """
    connected, send, queue = assoc.dul.socket.socket, assoc.dul.socket.send, assoc.dul.send_pdu
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_and_acknowledge(content: bytes) -> None:
        send(content)
        with suppress(OSError):  # the connection has just ended
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def send_now(primitive: Any) -> None:
        if not isinstance(primitive, P_DATA) or state(assoc) != ESTABLISHED or unsent(assoc):
            queue(primitive)
            return
        send_bytes(assoc, P_DATA_TF(primitive).encode())

    if hasattr(socket, "TCP_QUICKACK"):  # Linux
        assoc.dul.socket.send = send_and_acknowledge
    if not isinstance(connected, ssl.SSLSocket):
        assoc.dul.send_pdu = send_now
