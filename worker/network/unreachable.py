"""Why a connection could not be made, in words for the person who must mend it."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator

UNRESOLVED, UNAVAILABLE, TLS_FAILED = "host-unresolved", "peer-unavailable", "tls-failed"

# OpenSSL's names of an alert or a fault of the handshake → what it means for the peers here.
_HANDSHAKE = {
    "WRONG_VERSION_NUMBER": "the port does not speak TLS",
    "RECORD_LAYER_FAILURE": "the port does not speak TLS",
    "UNEXPECTED_EOF_WHILE_READING": "the peer closed the connection in the handshake: does the port speak TLS?",
    "NO_PROTOCOLS_AVAILABLE": "the peer has no TLS version in common with us (1.2 or 1.3)",
    "UNSUPPORTED_PROTOCOL": "the peer has no TLS version in common with us (1.2 or 1.3)",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer has no TLS version in common with us (1.2 or 1.3)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer has no cipher in common with us, or requires a certificate of us",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust the authority of our certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer requires a certificate of us: set tls_certificate and tls_key",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer says that our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer rejects our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer rejects our certificate",
}


def explain(fault: OSError | UnicodeError, host: str, address: str) -> tuple[str, str]:
    """(reason, sentence) for a connection to `host` at `address`, as it is shown; nothing of the exception's own text.

    The sentence follows the name of the peer: "does not answer at …", "cannot be reached: …".
    """
    if isinstance(fault, (socket.gaierror, UnicodeError)):
        return UNRESOLVED, f"cannot be reached: {unresolved(host, fault)}"
    if isinstance(fault, ssl.SSLError):
        return TLS_FAILED, f"refused TLS at {address}: {_handshake(fault)}"
    if isinstance(fault, TimeoutError):
        why = "no answer in time; is the address right, and does a firewall block it?"
    elif isinstance(fault, ConnectionRefusedError):
        why = "connection refused; is it running, and is the port right?"
    elif isinstance(fault, ConnectionError):
        why = "it closed the connection; does it expect TLS, or no TLS?"
    elif fault.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        why = "there is no route to it; is the address right?"
    else:
        why = os.strerror(fault.errno).lower() if fault.errno and fault.errno > 0 else "the connection failed"
    return UNAVAILABLE, f"does not answer at {address}: {why}"


def unresolved(host: str, fault: OSError | UnicodeError | None = None) -> str:
    """The sentence for a host name that has no address."""
    if isinstance(fault, socket.gaierror) and fault.errno == socket.EAI_AGAIN:
        return f"the name server did not answer for the host name '{host}'"
    return f"the host name '{host}' does not resolve; is it spelt right?"


def cause(error: BaseException) -> OSError | UnicodeError | None:
    """The fault of the socket behind a library's exception: the innermost of what it was raised from."""
    faults = [fault for fault in _chain(error) if isinstance(fault, (OSError, UnicodeError))]
    # A library's own exceptions may be OSErrors too; those of sockets are Python's.
    return next((fault for fault in faults if type(fault).__module__ in ("builtins", "socket", "ssl")), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it wraps, each once."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        fault = waiting.pop()
        if not isinstance(fault, BaseException) or id(fault) in seen:
            continue
        seen.add(id(fault))
        yield fault
        waiting += [fault.__context__, fault.__cause__, getattr(fault, "reason", None), *fault.args]


def _handshake(fault: ssl.SSLError) -> str:
    if isinstance(fault, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({fault.verify_message.rstrip('.')})"
    reason: str = getattr(fault, "reason", None) or "unknown"
    return _HANDSHAKE.get(reason) or f"the handshake failed ({reason.replace('_', ' ').lower()})"
