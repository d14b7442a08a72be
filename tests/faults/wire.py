"""A DICOM peer that is nothing but bytes on a socket, so that each of them can be wrong: PS3.8 Section 9.3.

It is also a cheap sender: 64 of them cost a load test less than the receiver that they load.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable
from io import BytesIO
from typing import Self

from pydicom import Dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from worker.dicom.commitment import SOP_CLASS, SOP_INSTANCE

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_IMPLEMENTATION = "1.2.826.0.1.3680043.2.1545.1"
ACCEPTED, REJECTED, DATA, RELEASED, ABORTED = 0x02, 0x03, 0x04, 0x06, 0x07


class Closed(Exception):
    """The peer ended the connection, with an A-ABORT (`aborted`) or without a word."""

    def __init__(self, aborted: bool) -> None:
        super().__init__("aborted" if aborted else "closed")
        self.aborted = aborted


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_request(
    contexts: Iterable[tuple[str, str]], called: bytes = b"AI_WORKER", calling: bytes = b"BYTES"
) -> bytes:
    """A-ASSOCIATE-RQ: one presentation context for each (abstract syntax, transfer syntax), numbered 1, 3, 5 ..."""
    items = _item(0x10, _APPLICATION_CONTEXT.encode())
    for number, (abstract, transfer) in enumerate(contexts):
        inner = _item(0x30, abstract.encode()) + _item(0x40, transfer.encode())
        items += _item(0x20, struct.pack(">BBBB", 2 * number + 1, 0, 0, 0) + inner)
    items += _item(0x50, _item(0x51, struct.pack(">I", 1 << 18)) + _item(0x52, _IMPLEMENTATION.encode()))
    return pdu(0x01, struct.pack(">HH", 1, 0) + called.ljust(16) + calling.ljust(16) + bytes(32) + items)


def store_command(sop_class_uid: str, sop_instance_uid: str, message_id: int = 1) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1), Implicit VR Little Endian."""
    command = Dataset()
    command.AffectedSOPClassUID, command.AffectedSOPInstanceUID = UID(sop_class_uid), UID(sop_instance_uid)
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = 0x0001, message_id, 2, 1
    body = implicit(command)
    return struct.pack("<HHII", 0x0000, 0x0000, 4, len(body)) + body


def echo_command(message_id: int = 1) -> bytes:
    """The command set of a C-ECHO-RQ (PS3.7 9.3.5.1)."""
    command = Dataset()
    command.AffectedSOPClassUID = UID("1.2.840.10008.1.1")
    command.CommandField, command.MessageID, command.CommandDataSetType = 0x0030, message_id, 0x0101
    body = implicit(command)
    return struct.pack("<HHII", 0x0000, 0x0000, 4, len(body)) + body


def action_command(message_id: int = 1) -> bytes:
    """The command set of an N-ACTION-RQ (PS3.7 10.3.4.1) that requests storage commitment."""
    command = Dataset()
    command.RequestedSOPClassUID, command.RequestedSOPInstanceUID = UID(SOP_CLASS), UID(SOP_INSTANCE)
    command.CommandField, command.MessageID, command.CommandDataSetType = 0x0130, message_id, 1
    command.ActionTypeID = 1
    body = implicit(command)
    return struct.pack("<HHII", 0x0000, 0x0000, 4, len(body)) + body


def find_command(model: str, message_id: int = 1) -> bytes:
    """The command set of a C-FIND-RQ (PS3.7 9.3.2.1)."""
    command = Dataset()
    command.AffectedSOPClassUID = UID(model)
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = 0x0020, message_id, 2, 1
    body = implicit(command)
    return struct.pack("<HHII", 0x0000, 0x0000, 4, len(body)) + body


def move_command(model: str, destination: bytes, message_id: int = 1) -> bytes:
    """The command set of a C-MOVE-RQ (PS3.7 9.3.4.1); `destination` as it is, of an even length."""
    command = Dataset()
    command.AffectedSOPClassUID = UID(model)
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = 0x0021, message_id, 2, 1
    body = implicit(command)
    at = body.rindex(struct.pack("<HH", 0x0000, 0x0700))  # Priority, which follows (0000,0600)
    body = body[:at] + struct.pack("<HHI", 0x0000, 0x0600, len(destination)) + destination + body[at:]
    return struct.pack("<HHII", 0x0000, 0x0000, 4, len(body)) + body


def implicit(ds: Dataset) -> bytes:
    from pydicom.filebase import DicomBytesIO

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def data_pdus(context_id: int, content: bytes, command: bool, size: int = 1 << 17) -> Iterable[bytes]:
    """P-DATA-TF PDUs of a command or a dataset, each fragment of `size` bytes at most."""
    starts = range(0, len(content), size) if content else [0]
    for start in starts:
        last = 2 if start + size >= len(content) else 0
        value = struct.pack(">BB", context_id, last | command) + content[start : start + size]
        yield pdu(DATA, struct.pack(">I", len(value)) + value)


RELEASE_REQUEST = pdu(0x05, bytes(4))


class Wire:
    """One connection. Every wait ends after `seconds` with TimeoutError: that is a hang of the other side."""

    def __init__(self, port: int, seconds: float = 30.0, host: str = "127.0.0.1", source: str | None = None) -> None:
        self._socket = socket.create_connection(
            (host, port), timeout=seconds, source_address=(source, 0) if source is not None else None
        )
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, content: bytes) -> None:
        """Raises Closed when the peer has ended the connection."""
        try:
            self._socket.sendall(content)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed(aborted=False) from None

    def end_sending(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            raise Closed(aborted=False) from None

    def wait(self, seconds: float) -> None:
        """Until something has come, at most so long."""
        select.select([self._socket], [], [], seconds)

    def receive(self) -> tuple[int, bytes]:
        """(type, body) of the next PDU. Raises Closed."""
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        parts = BytesIO()
        while parts.tell() < length:
            try:
                part = self._socket.recv(length - parts.tell())
            except (ConnectionResetError, BrokenPipeError):
                part = b""
            if not part:
                raise Closed(aborted=False)
            parts.write(part)
        return parts.getvalue()

    def associate(self, contexts: Iterable[tuple[str, str]], calling: bytes = b"BYTES") -> list[int]:
        """The numbers of the accepted contexts. Raises Closed when there is no association."""
        self.send(associate_request(contexts, calling=calling))
        kind, body = self.receive()
        if kind != ACCEPTED:
            raise Closed(aborted=kind == ABORTED)
        accepted, place = [], 68
        while place + 4 <= len(body):
            item, _, length = struct.unpack(">BBH", body[place : place + 4])
            if item == 0x21 and body[place + 6] == 0:
                accepted.append(body[place + 4])
            place += 4 + length
        return accepted

    def store(self, context_id: int, sop_class_uid: str, sop_instance_uid: str, dataset: bytes, number: int = 1) -> int:
        """C-STORE of a dataset's bytes; the status. Raises Closed."""
        for part in data_pdus(context_id, store_command(sop_class_uid, sop_instance_uid, number), command=True):
            self.send(part)
        for part in data_pdus(context_id, dataset, command=False):
            self.send(part)
        kind, body = self.receive()
        if kind != DATA:
            raise Closed(aborted=kind == ABORTED)
        return status_of(body)

    def release(self) -> None:
        self.send(RELEASE_REQUEST)
        kind, _ = self.receive()
        if kind != RELEASED:
            raise Closed(aborted=kind == ABORTED)


def status_of(body: bytes) -> int:
    """The Status (0000,0900) of a command in a P-DATA-TF body."""
    place = body.index(b"\x00\x00\x00\x09\x02\x00\x00\x00")
    status: int = struct.unpack("<H", body[place + 8 : place + 10])[0]
    return status
