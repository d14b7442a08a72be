"""What is said of each way in which a connection fails, and that nothing is of an exception's own text."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from worker.network.unreachable import TLS_FAILED, UNAVAILABLE, UNRESOLVED, cause, explain

ADDRESS = "pacs:104"


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "secret"), UNRESOLVED, "the host name 'pacs' does not resolve"),
        (socket.gaierror(socket.EAI_AGAIN, "secret"), UNRESOLVED, "the name server did not answer"),
        (UnicodeError("secret"), UNRESOLVED, "the host name 'pacs' does not resolve"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "secret"), UNAVAILABLE, "at pacs:104: connection refused"),
        (TimeoutError("secret"), UNAVAILABLE, "no answer in time"),
        (ConnectionResetError(errno.ECONNRESET, "secret"), UNAVAILABLE, "it closed the connection"),
        (OSError(errno.EHOSTUNREACH, "secret"), UNAVAILABLE, "there is no route to it"),
        (OSError(errno.EMFILE, "secret"), UNAVAILABLE, "too many open files"),
        (OSError("secret"), UNAVAILABLE, "the connection failed"),
        (ssl.SSLError("secret"), TLS_FAILED, "the handshake failed"),
    ],
)
def test_each_fault_has_a_reason_and_a_sentence(fault: OSError | UnicodeError, reason: str, words: str) -> None:
    stated, sentence = explain(fault, "pacs", ADDRESS)
    assert stated == reason
    assert words in sentence
    assert "secret" not in sentence


def test_the_fault_of_the_socket_is_found_below_a_library_s_exceptions() -> None:
    class Wrapped(OSError):
        """As requests' exceptions are."""

    refused = ConnectionRefusedError(errno.ECONNREFUSED, "")
    inner = RuntimeError("retries")
    inner.__cause__ = refused
    assert cause(Wrapped(inner)) is refused
    circle = RuntimeError()
    circle.__context__ = Wrapped(circle)
    assert cause(circle) is None
