"""C-STORE requests taken straight off the connection: where a transfer spends its time, without pynetdicom's detours.

pynetdicom hands a message from the thread that reads to the one that answers and back; each looks for work once a
millisecond, every PDU is copied seven times and passes a dozen objects. Here the reading thread waits for the bytes
themselves, collects a C-STORE-RQ with two copies, has it kept and answers. All that is no well-formed C-STORE-RQ on an
accepted context goes the old way: association control, C-ECHO, queries, storage commitment, and whatever is broken.
The issue text for pynetdicom is docs/upstream/pynetdicom-polling.md.
"""

from __future__ import annotations

import os
import select
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from worker.dicom import standard

INVALID_PDU = "Evt19"  # PS3.8 9.2.2: unrecognised or invalid PDU; the association is aborted
_CONNECTION_CLOSED = "Evt17"
_ESTABLISHED, _AWAITING_CLOSE = "Sta6", "Sta13"
_P_DATA = 0x04
_COMMAND, _LAST = 1, 2  # PS3.8 E.2
_C_STORE_RQ, _C_STORE_RSP, _NO_DATASET = 0x0001, 0x8001, 0x0101  # PS3.7 9.3.1
# PS3.7 E.1, of group 0000.
_SOP_CLASS, _FIELD, _MESSAGE_ID, _ANSWERED_ID, _PRIORITY = 0x0002, 0x0100, 0x0110, 0x0120, 0x0700
_DATASET_TYPE, _STATUS, _SOP_INSTANCE = 0x0800, 0x0900, 0x1000
_LONGEST_ANSWER = 512
_READ_AHEAD = 1 << 16
_BUSY_MS, _IDLE_MS = 1, 20  # between looks at what other threads want to send
_BUSY_SECONDS = 1.0
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A complete C-STORE-RQ; `encoded` is the DICOM file that it makes, None above the largest dataset."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    encoded: bytearray | None


@dataclass(slots=True)
class _Coming:
    """A request of which the command has come, and parts of the dataset."""

    context_id: int
    message_id: int
    request: StoreRequest
    encoded: bytearray
    dataset_bytes: int = 0


class DirectStores:
    """Reads one association's connection, in pynetdicom's reading thread."""

    def __init__(
        self, assoc: Association, longest_pdu: int, maximum_bytes: int, store: Callable[[StoreRequest], int]
    ) -> None:
        """`maximum_bytes` of a dataset are kept; `store` gives the status to answer and raises nothing."""
        self._assoc = assoc
        self._dul = assoc.dul
        self._inbox = _Inbox(longest_pdu)
        self._maximum_bytes = maximum_bytes
        self._store = store
        self._coming: _Coming | None = None
        self._poll = select.poll()
        self._poll.register(assoc.dul.socket.socket, select.POLLIN)
        self._busy_until = 0.0
        self._handed_over = True
        self._work = threading.Event()
        self._sending = threading.Lock()

    def take_over(self) -> None:
        """Replace pynetdicom's looks for work, before the association's threads are started."""
        self._next_pdu_of_old = self._dul._is_transport_event
        self._dul._is_transport_event = self._next_pdu
        self._dul._run_loop_delay = 0.0  # the connection is waited for instead
        checkpoint, send = self._assoc._reactor_checkpoint, self._assoc.dimse.send_msg
        wait_for_leave = checkpoint.wait

        def wait_for_work(timeout: float | None = None) -> bool:
            """In the answering thread, which would look each millisecond."""
            self._work.wait(_LOOK_SECONDS)
            self._work.clear()
            return bool(wait_for_leave(timeout))

        def send_whole(*arguments: Any) -> None:
            """No answer of ours comes between the command and the dataset of another thread's message."""
            with self._sending:
                send(*arguments)

        checkpoint.wait = wait_for_work
        self._assoc.dimse.send_msg = send_whole

    # --- reading ---

    def _next_pdu(self) -> bool:
        """In place of DULServiceProvider._is_transport_event: True when something was read.

        Requests are read and answered here, one after the other, while nothing else asks for pynetdicom's loop.
        """
        if self._handed_over:  # what was read the last time has reached its queue by now
            self._handed_over = False
            self._work.set()
        connection = self._dul.socket.socket if self._dul.socket else None
        state = self._dul.state_machine.current_state
        if state == _AWAITING_CLOSE or connection is None or connection.fileno() < 0:
            time.sleep(_BUSY_MS / 1000)
            return self._old_way()
        took = False
        while self._comes(connection, state):
            if state != _ESTABLISHED and not self._inbox.holds:
                return self._old_way()
            try:
                pdu = self._inbox.next_pdu(connection)
            except OSError:  # its end, silence in the middle of a PDU, or one longer than any that we take
                self._handed_over = True
                self._dul.event_queue.put(_CONNECTION_CLOSED)
                return True
            took = True
            if state == _ESTABLISHED:
                self._take(pdu)
            else:
                self._hand_over(pdu)
            if self._handed_over or self._dul._kill_thread or self._dul.to_provider_queue.queue:
                break
            self._dul._idle_timer.restart()
        return took

    def _comes(self, connection: Any, state: str) -> bool:
        """Whether there is something to read, now or in a moment."""
        if self._inbox.holds or (isinstance(connection, ssl.SSLSocket) and connection.pending()):
            return True
        wait = _BUSY_MS if state != _ESTABLISHED or time.monotonic() < self._busy_until else _IDLE_MS
        return bool(self._poll.poll(wait))

    def _old_way(self) -> bool:
        self._handed_over = True
        return bool(self._next_pdu_of_old())

    def _take(self, pdu: memoryview) -> None:
        """A PDU of an established association: a part of a C-STORE-RQ, or for pynetdicom."""
        values = _values(pdu) if pdu[0] == _P_DATA else []
        if self._coming is None or pdu[0] != _P_DATA:
            self._coming = None
            if not values or not self._begins(*values.pop(0)):
                self._hand_over(pdu)
                return
        if values is None or not all(self._collect(*one) for one in values):
            self._coming = None
            self._handed_over = True
            self._dul.event_queue.put(INVALID_PDU)

    def _hand_over(self, pdu: memoryview) -> None:
        self._handed_over = True
        self._busy_until = time.monotonic() + _BUSY_SECONDS
        try:
            decoded, event = self._dul._decode_pdu(bytearray(pdu))
        except Exception:  # hostile bytes may raise anything in the decoder; the answer is the same
            self._dul.event_queue.put(INVALID_PDU)
            return
        self._dul.event_queue.put(event)
        self._dul._recv_pdu.put(decoded)

    def _begins(self, context_id: int, control: int, value: memoryview) -> bool:
        """A whole command set of a C-STORE-RQ, on a context that was accepted for its SOP class."""
        context = self._assoc._accepted_cx.get(context_id)
        busy = self._assoc.dimse.message is not None or not self._assoc.is_established
        if control & 3 != _COMMAND | _LAST or context is None or busy:
            return False
        if 0 < self._assoc.dimse.maximum_pdu_size < _LONGEST_ANSWER:
            return False
        command = _command(value)
        if _number(command, _FIELD) != _C_STORE_RQ or _number(command, _DATASET_TYPE) == _NO_DATASET:
            return False
        sop_class, sop_instance = _uid(command, _SOP_CLASS), _uid(command, _SOP_INSTANCE)
        message_id = _number(command, _MESSAGE_ID)
        if message_id is None or _PRIORITY not in command or sop_class not in standard.STORAGE_SOP_CLASSES:
            return False
        if sop_class != context.abstract_syntax or not standard.is_uid(sop_instance):
            return False
        syntax = str(context.transfer_syntax[0])
        file = bytearray(file_beginning(sop_class, sop_instance, syntax))
        self._coming = _Coming(context_id, message_id, StoreRequest(sop_class, sop_instance, syntax, file), file)
        return True

    def _collect(self, context_id: int, control: int, value: memoryview) -> bool:
        """A part of the dataset; False for what is none. The last one has the request answered."""
        coming = self._coming
        if coming is None or context_id != coming.context_id or control & _COMMAND:
            return False
        coming.dataset_bytes += len(value)
        if coming.dataset_bytes <= self._maximum_bytes:
            coming.encoded += value
        elif coming.request.encoded is not None:
            coming.encoded = bytearray()
            coming.request = StoreRequest(
                coming.request.sop_class_uid, coming.request.sop_instance_uid, coming.request.transfer_syntax_uid, None
            )
        if control & _LAST:
            self._coming = None
            self._answer(coming)
        return True

    # --- answering ---

    def _answer(self, coming: _Coming) -> None:
        self._dul._idle_timer.stop()  # the peer waits for us now; it is started again after what was read
        status = self._store(coming.request)
        value = bytes([_COMMAND | _LAST]) + _answer_command(coming, status)
        with self._sending:
            waiting = list(self._dul.to_provider_queue.queue)
            if not waiting:
                item = struct.pack(">IB", 1 + len(value), coming.context_id) + value
                self._dul.socket.send(struct.pack(">BBI", _P_DATA, 0, len(item)) + item)
            elif all(isinstance(one, P_DATA) for one in waiting):  # else the association ends just now
                primitive = P_DATA()
                primitive.presentation_data_value_list = [[coming.context_id, value]]
                self._dul.send_pdu(primitive)


class _Inbox:
    """What was read of a connection and not taken yet: one read brings a command and the beginning of its dataset."""

    def __init__(self, longest_pdu: int) -> None:
        self._longest_pdu = longest_pdu
        self._buffer = memoryview(bytearray(_READ_AHEAD))
        self._taken = self._filled = 0

    @property
    def holds(self) -> bool:
        return self._taken < self._filled

    def next_pdu(self, connection: Any) -> memoryview:
        """It is good until the next call. Raises OSError at the end of the connection, for silence and for length."""
        self._have(connection, 6)
        length = 6 + int.from_bytes(self._buffer[self._taken + 2 : self._taken + 6], "big")
        if length - 6 > self._longest_pdu:
            raise OSError("a PDU is longer than any that we take")
        if length > _READ_AHEAD:
            return self._long_pdu(connection, length)
        self._have(connection, length)
        pdu = self._buffer[self._taken : self._taken + length]
        self._taken += length
        return pdu

    def _have(self, connection: Any, count: int) -> None:
        """At least so many bytes, and what more has come."""
        if self._taken == self._filled:
            self._taken = self._filled = 0
        elif self._taken + count > _READ_AHEAD:
            rest = bytes(self._buffer[self._taken : self._filled])
            self._buffer[: len(rest)] = rest
            self._taken, self._filled = 0, len(rest)
        while self._filled - self._taken < count:
            self._filled += _read(connection, self._buffer[self._filled :])

    def _long_pdu(self, connection: Any, length: int) -> memoryview:
        pdu = memoryview(bytearray(length))
        held = min(length, self._filled - self._taken)
        pdu[:held] = self._buffer[self._taken : self._taken + held]
        self._taken += held
        while held < length:
            held += _read(connection, pdu[held:])
        return pdu


def _read(connection: Any, buffer: memoryview) -> int:
    """The number of bytes read, at least one. Raises OSError at the end of the connection, and for silence."""
    if isinstance(connection, ssl.SSLSocket):
        count = int(connection.recv_into(buffer))
    else:
        try:  # recv_into would first wait by a call of its own: most often the bytes are there
            count = os.readv(connection.fileno(), [buffer])
        except BlockingIOError:
            count = int(connection.recv_into(buffer))
    if not count:
        raise OSError("the connection ended")
    return count


def _values(pdu: memoryview) -> list[tuple[int, int, memoryview]] | None:
    """(context, control header, fragment) of each value of a P-DATA-TF (PS3.8 9.3.5); None where it is none."""
    found, place = [], 6
    while place < len(pdu):
        length = int.from_bytes(pdu[place : place + 4], "big")
        end = place + 4 + length
        if length < 2 or end > len(pdu):
            return None
        found.append((pdu[place + 4], pdu[place + 5], pdu[place + 6 : end]))
        place = end
    return found


def _command(value: memoryview) -> dict[int, bytes]:
    """The elements of a command set by number (PS3.7 6.3.1: Implicit VR Little Endian); empty where it is none."""
    found, place = {}, 0
    while place < len(value):
        if place + 8 > len(value):
            return {}
        group, element, length = struct.unpack_from("<HHI", value, place)
        place += 8 + length
        if group or place > len(value):
            return {}
        found[element] = bytes(value[place - length : place])
    return found


def _number(command: dict[int, bytes], element: int) -> int | None:
    value = command.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(command: dict[int, bytes], element: int) -> str:
    return command.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


def _answer_command(coming: _Coming, status: int) -> bytes:
    """A C-STORE-RSP (PS3.7 9.3.1.2)."""
    body = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (_SOP_CLASS, _even(coming.request.sop_class_uid)),
            (_FIELD, struct.pack("<H", _C_STORE_RSP)),
            (_ANSWERED_ID, struct.pack("<H", coming.message_id)),
            (_DATASET_TYPE, struct.pack("<H", _NO_DATASET)),
            (_STATUS, struct.pack("<H", status)),
            (_SOP_INSTANCE, _even(coming.request.sop_instance_uid)),
        )
    )
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def file_beginning(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta information (PS3.10 7.1), which the dataset follows."""
    elements = (
        (0x0002, b"UI", _even(sop_class_uid)),
        (0x0003, b"UI", _even(sop_instance_uid)),
        (0x0010, b"UI", _even(transfer_syntax_uid)),
        (0x0012, b"UI", _even(PYNETDICOM_IMPLEMENTATION_UID)),
        (0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION.ljust(16).encode()),
    )
    version = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    body = version + b"".join(struct.pack("<HH2sH", 2, tag, vr, len(value)) + value for tag, vr, value in elements)
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def _even(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)
