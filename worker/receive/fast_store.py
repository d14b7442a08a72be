"""C-STORE requests read straight off the connection, without the detours on which pynetdicom spends most of a transfer.

pynetdicom hands a message from the thread that reads to the thread that answers and back; each looks for work once a
millisecond, and every PDU is copied seven times and passes through a dozen objects. Here the reading thread waits for
the bytes themselves, collects a C-STORE-RQ with two copies, has it stored and answers. Everything that is not a
well-formed C-STORE-RQ on an accepted context is handled by pynetdicom: association control, C-ECHO, queries, storage
commitment, and whatever is malformed. The issue text for pynetdicom is docs/upstream/pynetdicom-polling.md.

While nothing happens both threads sleep: the reading thread until bytes arrive or another thread gives it something to
send, the answering thread until a message was read.
"""

from __future__ import annotations

import select
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from worker.dicom import standard
from worker.logs import fault_fields, get_log
from worker.network import association_request
from worker.network import pynetdicom_patches as patches
from worker.network.part10 import even_uid, file_beginning
from worker.receive.data_values import DataValue, command_elements, data_pdu, data_values, number_of, uid_of
from worker.receive.places import Place
from worker.receive.read_buffer import ReadBuffer, UnknownPdu, Wake
from worker.storage.acceptance import StoreRequest
from worker.storage.arriving import ArrivingInstance, invalid_instance
from worker.storage.spool import Spool

_ASSOCIATE_RQ, _P_DATA = 0x01, 0x04
_NEGOTIATION = (_ASSOCIATE_RQ, 0x02, 0x03)  # and its answers
_COMMAND, _LAST = 1, 2  # PS3.8 E.2
_C_STORE_RQ, _C_STORE_RSP, _NO_DATASET = 0x0001, 0x8001, 0x0101  # PS3.7 9.3.1
# PS3.7 E.1, of group 0000.
_SOP_CLASS, _FIELD, _MESSAGE_ID, _ANSWERED_ID, _PRIORITY = 0x0002, 0x0100, 0x0110, 0x0120, 0x0700
_DATASET_TYPE, _STATUS, _SOP_INSTANCE = 0x0800, 0x0900, 0x1000
_MAXIMUM_COMMAND_BYTES = 1 << 16
_MOST_COMMAND_PDUS = 1024  # of a command in parts
_LOOK_SECONDS = 1.0  # pynetdicom's timers count in this unit while nothing else wakes the threads
_CLOSING_SECONDS = 0.001
_DROPPED_BYTES = 1 << 16


class FastStore:
    """Reads the connection of one association, in pynetdicom's reading thread."""

    def __init__(
        self,
        assoc: Association,
        place: Place,
        longest_pdu: int,
        spool: Spool,
        maximum_bytes: int,
        store: Callable[[StoreRequest], int],
    ) -> None:
        """`maximum_bytes` of a dataset are kept in `spool`; `store` returns the status to answer and raises nothing."""
        self._assoc = assoc
        self._place = place
        self._buffer = ReadBuffer(longest_pdu)
        self._spool = spool
        self._maximum_bytes = maximum_bytes
        self._store = store
        # The request whose command has arrived, and so much of its dataset; None between requests.
        self._arriving: ArrivingInstance | None = None
        self._context_id = self._message_id = 0
        self._held = bytearray()  # so much of a command that comes in parts
        self._held_context_id = self._held_pdus = 0
        self._look_seconds = min(_LOOK_SECONDS, (assoc.network_timeout or _LOOK_SECONDS) / 2)
        self._wake = Wake()
        self._connection_number = patches.connection(assoc).fileno()
        self._poll = select.poll()
        self._poll.register(self._connection_number, select.POLLIN)
        self._poll.register(self._wake.number, select.POLLIN)
        self._is_new = self._handed_over = True
        self._work = threading.Event()
        self._sending = threading.Lock()

    def take_over(self) -> None:
        """Replace pynetdicom's reader and its polling, before the association's threads are started."""
        self._read_by_pynetdicom = patches.replace_reader(self._assoc, self._next_pdu)
        patches.replace_reactor_sleep(self._assoc, self._work, self._look_seconds)
        patches.replace_upper_layer_run(self._assoc, self._run)
        patches.wake_upper_layer_by(self._assoc, self._wake_both)
        # No answer of ours comes between the command and the dataset of another thread's message.
        patches.send_messages_under(self._assoc, self._sending)

    def _wake_both(self) -> None:
        self._wake.wake()
        self._work.set()

    def _run(self, run: Callable[[], None]) -> None:
        """The reading thread: whatever a hostile peer brings about in it, the peer gets an A-ABORT and we an end."""
        try:
            run()
        except Exception as error:  # a thread's boundary: hostile bytes may raise anything in the state machine
            get_log().warning("association failed", **fault_fields(error))
            patches.end_at_once(self._assoc)
        finally:
            self._drop()
            patches.signal_no_request(self._assoc)
            self._work.set()
            self._wake.close()

    # --- reading ---

    def _next_pdu(self) -> bool:
        """Read what has arrived; True when something was read.

        Requests are read and answered here, one after the other, while nothing else needs pynetdicom's loop.
        """
        if self._handed_over:  # what was read the last time has reached its queue by now
            self._handed_over = False
            self._work.set()
        connection, state = patches.connection(self._assoc), patches.state(self._assoc)
        if state == patches.IDLE:  # the connection is new, and the state machine is told so next; or at its end
            if not self._is_new:
                time.sleep(_CLOSING_SECONDS)
            self._is_new = False
            self._handed_over = True
            return False
        if state == patches.AWAITING_CLOSE or connection is None or connection.fileno() < 0:
            if self._drop_input(connection):
                return True
            time.sleep(_CLOSING_SECONDS)
            return self._leave_to_pynetdicom()
        has_read = False
        while self._has_input(connection):
            try:
                pdu = self._buffer.next_pdu(connection)
            except UnknownPdu:
                self._refuse_pdu()
                return True
            except OSError:  # its end, silence in the middle of a PDU, or a PDU above the maximum length
                self._handed_over = True
                patches.signal(self._assoc, patches.CONNECTION_CLOSED)
                return True
            has_read = True
            if state == patches.ESTABLISHED:
                self._take(pdu)
            elif state == patches.AWAITING_REQUEST and pdu[0] == _ASSOCIATE_RQ:
                self._take_association_request(pdu)
            else:
                self._hand_over(pdu)
            if self._handed_over or patches.is_stopping(self._assoc) or patches.unsent(self._assoc):
                break
            patches.restart_idle_timer(self._assoc)
        return has_read

    def _has_input(self, connection: Any) -> bool:
        """Whether there is something to read; waits for it while nothing else needs this thread."""
        if self._buffer.holds or (isinstance(connection, ssl.SSLSocket) and connection.pending()):
            return True
        ready = [number for number, _ in self._poll.poll(self._look_seconds * 1000)]
        if self._wake.number in ready:
            self._wake.clear()
        return self._connection_number in ready

    def _drop_input(self, connection: Any) -> bool:
        """Read on at the end of an association, undecoded (PS3.8 9.2, AA-6); False when nothing has come."""
        if connection is None or connection.fileno() < 0:
            return False
        if self._connection_number not in [number for number, _ in self._poll.poll(0)]:
            return False
        try:
            is_open = bool(connection.recv(_DROPPED_BYTES))
        except OSError:
            is_open = False
        if not is_open:
            self._handed_over = True
            patches.signal(self._assoc, patches.CONNECTION_CLOSED)
        return True

    def _leave_to_pynetdicom(self) -> bool:
        self._handed_over = True
        return bool(self._read_by_pynetdicom())

    def _take(self, pdu: memoryview) -> None:
        """A PDU of an established association: a part of a C-STORE-RQ, or for pynetdicom."""
        if self._arriving is not None and self._is_fragment(pdu):
            self._collect(pdu[10], pdu[11], pdu[12:])
            return
        if pdu[0] != _P_DATA:
            self._drop()
            self._hand_over(pdu)
            return
        values = data_values(pdu)
        if not self._are_negotiated(values):
            self._refuse_pdu()
        elif self._arriving is not None:
            self._collect_all(values)
        elif self._held_pdus or values[0][1] & 3 == _COMMAND:
            values = self._hold(values)
            if values:
                self._begin_or_hand_over(values, data_pdu(values))
        else:
            self._begin_or_hand_over(values, pdu)

    def _begin_or_hand_over(self, values: list[DataValue], pdu: memoryview) -> None:
        """Take the values of a PDU, of which the first is a whole command or none."""
        if self._begin(*values[0]):
            self._collect_all(values[1:])
        else:
            self._hand_over(pdu)

    def _collect_all(self, values: list[DataValue]) -> None:
        if not all(self._collect(*value) for value in values):
            self._refuse_pdu()

    def _is_fragment(self, pdu: memoryview) -> bool:
        """Whether the PDU is a fragment of the dataset that is arriving and nothing else, as most PDUs are."""
        return (
            pdu[0] == _P_DATA
            and len(pdu) > 12
            and pdu[10] == self._context_id
            and not pdu[11] & _COMMAND
            and int.from_bytes(pdu[6:10], "big") == len(pdu) - 10
        )

    def _hold(self, values: list[DataValue]) -> list[DataValue]:
        """Hold a part of a command until it is whole; then the values, with the command in one of them.

        No values while more of it is to come, or where the parts do not belong together (PS3.8 E.2).
        """
        count = next((index for index, (_, control, _) in enumerate(values) if control & 3 != _COMMAND), len(values))
        parts = values[: count + 1]
        if not self._held_pdus:
            self._held_context_id = parts[0][0]
        self._held_pdus += 1
        for _, _, part in parts:
            self._held += part
        is_command = all(control & _COMMAND and context_id == self._held_context_id for context_id, control, _ in parts)
        if not is_command or self._held_pdus > _MOST_COMMAND_PDUS or len(self._held) > _MAXIMUM_COMMAND_BYTES:
            self._refuse_pdu()
            return []
        if count == len(values):
            return []
        command = memoryview(bytes(self._held))
        self._forget_held()
        return [(parts[-1][0], parts[-1][1], command), *values[count + 1 :]]

    def _forget_held(self) -> None:
        self._held.clear()
        self._held_pdus = 0

    def _are_negotiated(self, values: list[DataValue]) -> bool:
        """Whether there is a value, and each is of an accepted presentation context (PS3.8 9.3.5.1)."""
        return bool(values) and all(patches.accepted_context(self._assoc, value[0]) for value in values)

    def _take_association_request(self, pdu: memoryview) -> None:
        try:
            request = association_request.normalise(pdu)
        except association_request.MalformedRequest:
            self._refuse_pdu()
        else:
            self._give_to_pynetdicom(request)

    def _refuse_pdu(self) -> None:
        """Have the association aborted (PS3.8 9.2, AA-1 and AA-8)."""
        self._drop()
        self._forget_held()
        self._handed_over = True
        patches.signal(self._assoc, patches.INVALID_PDU)

    def _drop(self) -> None:
        """Forget the request that was arriving."""
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            arriving.close()

    def _hand_over(self, pdu: memoryview) -> None:
        """Have pynetdicom decode and answer a PDU, unless it would make much of it for nothing but to abort."""
        if pdu[0] in _NEGOTIATION or (pdu[0] == _P_DATA and not data_values(pdu)):
            self._refuse_pdu()
        else:
            self._give_to_pynetdicom(pdu)

    def _give_to_pynetdicom(self, pdu: bytes | memoryview) -> None:
        self._handed_over = True
        patches.signal_pdu(self._assoc, bytearray(pdu))

    def _begin(self, context_id: int, control: int, value: memoryview) -> bool:
        """Begin a request with a whole command set of a C-STORE-RQ, on a context that was accepted for its SOP class.

        False for anything else.
        """
        context = patches.accepted_context(self._assoc, context_id)
        if control & 3 != _COMMAND | _LAST or context is None or self._assoc.dimse.message is not None:
            return False
        command = command_elements(value)
        if number_of(command, _FIELD) != _C_STORE_RQ or number_of(command, _DATASET_TYPE) == _NO_DATASET:
            return False
        sop_class, sop_instance = uid_of(command, _SOP_CLASS), uid_of(command, _SOP_INSTANCE)
        message_id = number_of(command, _MESSAGE_ID)
        if message_id is None or _PRIORITY not in command or sop_class not in standard.RECEIVED_SOP_CLASSES:
            return False
        if sop_class != context.abstract_syntax:
            return False
        syntax = str(context.transfer_syntax[0])
        request = StoreRequest(sop_class, sop_instance, syntax, b"")
        if not standard.is_uid(sop_instance):  # pynetdicom would not answer
            request.fault = invalid_instance()
        beginning = file_beginning(sop_class, sop_instance, syntax)
        self._arriving = ArrivingInstance(self._spool, self._maximum_bytes, request, beginning)
        self._context_id, self._message_id = context_id, message_id
        return True

    def _collect(self, context_id: int, control: int, value: memoryview) -> bool:
        """Append a fragment of the dataset; False for what is none. The last fragment has the request answered."""
        arriving = self._arriving
        if arriving is None or context_id != self._context_id or control & _COMMAND:
            return False
        self._place.last_work = time.monotonic()
        arriving.append(value)
        if control & _LAST:
            try:
                self._answer(arriving.complete())
            finally:
                self._drop()
        return True

    # --- answering ---

    def _answer(self, request: StoreRequest) -> None:
        patches.stop_idle_timer(self._assoc)  # the peer waits for us now; it is restarted once this has been read
        self._place.begin_work()
        try:
            status = self._store(request)
        finally:
            self._place.end_work()
        command = _answer_command(request, self._message_id, status)
        limit = self._assoc.dimse.maximum_pdu_size  # of the PDU's variable field; 0 is none (PS3.8 D.1)
        size = max(1, limit - 6) if limit else len(command)
        with self._sending:
            unsent = list(patches.unsent(self._assoc))
            if not unsent and len(command) <= size:
                value = bytes([_COMMAND | _LAST]) + command
                item = struct.pack(">IB", 1 + len(value), self._context_id) + value
                patches.send_bytes(self._assoc, struct.pack(">BBI", _P_DATA, 0, len(item)) + item)
            elif all(isinstance(primitive, P_DATA) for primitive in unsent):  # else the association is just ending
                for start in range(0, len(command), size):
                    control = _COMMAND | (_LAST if start + size >= len(command) else 0)
                    primitive = P_DATA()
                    fragment = bytes([control]) + command[start : start + size]
                    primitive.presentation_data_value_list = [[self._context_id, fragment]]
                    patches.send_primitive(self._assoc, primitive)


def _answer_command(request: StoreRequest, message_id: int, status: int) -> bytes:
    """A C-STORE-RSP (PS3.7 9.3.1.2)."""
    body = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (_SOP_CLASS, even_uid(request.affected_sop_class_uid)),
            (_FIELD, struct.pack("<H", _C_STORE_RSP)),
            (_ANSWERED_ID, struct.pack("<H", message_id)),
            (_DATASET_TYPE, struct.pack("<H", _NO_DATASET)),
            (_STATUS, struct.pack("<H", status)),
            (_SOP_INSTANCE, even_uid(request.affected_sop_instance_uid)),
        )
    )
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body
