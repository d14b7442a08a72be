"""What is read ahead of a connection, and how a waiting thread is woken."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator

import pytest

from worker.receive.read_buffer import ReadBuffer, UnknownPdu, Wake


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        yield ours, theirs


def pdu(value: bytes) -> bytes:
    return b"\4\0" + len(value).to_bytes(4, "big") + value


@pytest.mark.parametrize("length", [100_000, 1 << 16, 65_530, 0])
def test_a_pdu_longer_than_the_buffer_is_read_whole_and_the_next_begins_after_it(
    connection: tuple[socket.socket, socket.socket], length: int
) -> None:
    ours, theirs = connection
    sent = [pdu(bytes([number]) * length) for number in (1, 2, 3)]
    sender = threading.Thread(target=theirs.sendall, args=(b"".join(sent),))
    sender.start()
    buffer = ReadBuffer(1 << 20)
    assert [bytes(buffer.next_pdu(ours)) for _ in sent] == sent
    sender.join()
    assert not buffer.holds


def test_a_pdu_above_the_maximum_is_not_read(connection: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = connection
    theirs.sendall(pdu(bytes(101))[:20])
    with pytest.raises(OSError, match="exceeds the maximum length"):
        ReadBuffer(100).next_pdu(ours)


def test_the_end_of_the_connection_in_a_pdu_is_an_error(connection: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = connection
    theirs.sendall(pdu(b"half of it")[:9])
    theirs.close()
    with pytest.raises(OSError, match="the connection ended"):
        ReadBuffer(100).next_pdu(ours)


def test_silence_in_a_pdu_is_an_error(connection: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = connection
    ours.settimeout(0.05)
    theirs.sendall(pdu(b"half of it")[:9])
    with pytest.raises(TimeoutError):
        ReadBuffer(100).next_pdu(ours)


def test_a_pdu_of_no_type_is_not_waited_for(connection: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = connection
    theirs.sendall(b"\x42\0\0\0\1\0")
    with pytest.raises(UnknownPdu):
        ReadBuffer(1 << 20).next_pdu(ours)


def test_a_wait_ends_when_it_is_woken_and_not_again() -> None:
    wake = Wake()
    poll = select.poll()
    poll.register(wake.number, select.POLLIN)
    wake.wake()
    wake.wake()
    assert poll.poll(0)
    wake.clear()
    assert not poll.poll(0)
    wake.close()
    wake.wake()  # too late, and harmless
