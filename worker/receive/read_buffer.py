"""The bytes of a connection: what is read ahead, and how a thread that waits for them is woken."""

from __future__ import annotations

import os
import ssl
import threading
from typing import Any

_READ_AHEAD = 1 << 16
_KNOWN_PDUS = range(1, 8)  # PS3.8 9.3.1


class Wake:
    """Ends the wait of a thread that polls `number`; `clear` before the next wait."""

    def __init__(self) -> None:
        self.number = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._is_open = True

    def wake(self) -> None:
        with self._lock:
            if self._is_open:
                os.eventfd_write(self.number, 1)

    def clear(self) -> None:
        os.eventfd_read(self.number)

    def close(self) -> None:
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self.number)


class UnknownPdu(Exception):
    """A PDU of a type that PS3.8 does not define: its length means nothing, and it is not waited for."""


class ReadBuffer:
    """Bytes of a connection that are read ahead: one read brings a command and the beginning of its dataset."""

    def __init__(self, longest_pdu: int) -> None:
        self._longest_pdu = longest_pdu
        self._buffer = memoryview(bytearray(_READ_AHEAD))
        self._taken = self._filled = 0

    @property
    def holds(self) -> bool:
        return self._taken < self._filled

    def next_pdu(self, connection: Any) -> memoryview:
        """The next PDU, valid until the next call.

        Raises OSError at the end of the connection, for silence, and for a PDU above the maximum length; UnknownPdu.
        """
        self._fill(connection, 6)
        if self._buffer[self._taken] not in _KNOWN_PDUS:
            raise UnknownPdu
        length = 6 + int.from_bytes(self._buffer[self._taken + 2 : self._taken + 6], "big")
        if length - 6 > self._longest_pdu:
            raise OSError("PDU exceeds the maximum length")
        if length > _READ_AHEAD:
            return self._long_pdu(connection, length)
        self._fill(connection, length)
        pdu = self._buffer[self._taken : self._taken + length]
        self._taken += length
        return pdu

    def _fill(self, connection: Any, count: int) -> None:
        """Read until there are at least so many bytes, and whatever else has arrived."""
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
    """Read into the buffer; the number of bytes, at least 1.

    Raises OSError at the end of the connection and for silence.
    """
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
