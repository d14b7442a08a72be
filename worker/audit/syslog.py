"""Forward the trail to a syslog server over TLS (PS3.15 A.6; RFC 5424, RFC 5425).

A single process of a host forwards at a time. The number of the last record sent is stored in HOST.sent beside the
trail, so that every record is sent at least once: RFC 5425 has no acknowledgement, and records in transit when a
connection breaks may be lost or duplicated. The trail is the original, the server has a copy.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import socket
import ssl
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

from worker.audit.trail import Trail, TrailRecord
from worker.config.sections import AuditSection
from worker.errors import StartError
from worker.files import write_atomically
from worker.logs import get_log
from worker.tls import client_context

_FACILITY = 10  # security/authorization messages (PS3.15 A.6)
_NOTICE, _WARNING = 5, 4
_BATCH = 256
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_TIME = re.compile(r' EventDateTime="([^"]+)"')
_SUCCESS = ' EventOutcomeIndicator="0"'


class Forwarder:
    """Sends the new records of a trail, from `run` in a thread of its own."""

    def __init__(self, audit: AuditSection, trail: Trail) -> None:
        self._audit = audit
        self._trail = trail
        self._position = trail.beside("sent")
        self._lock = trail.beside("sent-lock")
        self._connection: ssl.SSLSocket | None = None

    def run(self, stop: threading.Event) -> None:
        """Forward until `stop`. An unreachable server is retried with growing delays."""
        failures = 0
        while not stop.is_set():
            try:
                sent = self.forward()
                failures = 0
            except (OSError, StartError) as error:
                self._close()
                failures += 1
                if failures == 1:
                    why = error.detail if isinstance(error, StartError) else error.strerror
                    get_log().warning("audit not forwarded", fault=type(error).__name__, detail=why)
                sent = 0
            if sent < _BATCH:
                stop.wait(min(_LONGEST_WAIT_SECONDS, _POLL_SECONDS * 2.0 ** min(failures, 10)))
        self._close()

    def forward(self) -> int:
        """Send at most a batch; the number of records, 0 while another process forwards. Raises OSError."""
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                batch = list(islice(self._trail.records(self._sent()), _BATCH))
                if batch:
                    self._send(batch)
                    self._remember(batch[-1].number)
                return len(batch)
            return 0
        finally:
            os.close(fd)

    def _sent(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            return int(self._position.read_text())
        return 0

    def _remember(self, number: int) -> None:
        write_atomically(self._position, str(number))

    def _send(self, batch: Iterable[TrailRecord]) -> None:
        if self._connection is not None and select.select([self._connection], [], [], 0)[0]:
            self._close()  # a syslog server never sends data: it has closed the connection
        if self._connection is None:
            self._connection = connect(self._audit)
        self._connection.sendall(b"".join(frame(record, self._trail.host) for record in batch))

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.close()
            self._connection = None


def connect(audit: AuditSection) -> ssl.SSLSocket:
    """A connection to the syslog server. Raises OSError, UnicodeError for its host name, StartError for TLS files."""
    if audit.syslog_host is None or not (audit.tls_certificate and audit.tls_key and audit.tls_authority):
        raise StartError("config-invalid", "[audit] syslog_host needs TLS files")  # config refuses this
    context = client_context(audit.tls_certificate, audit.tls_key, audit.tls_authority)
    plain = socket.create_connection((audit.syslog_host, audit.syslog_port), timeout=_CONNECT_SECONDS)
    try:
        return context.wrap_socket(plain, server_hostname=audit.syslog_host)
    except OSError:
        plain.close()
        raise


def frame(record: TrailRecord, host: str) -> bytes:
    """A record as a syslog message (RFC 5424) preceded by its length (RFC 5425 4.3)."""
    severity = _NOTICE if _SUCCESS in record.message else _WARNING
    time = _TIME.search(record.message)
    name = "".join(character for character in host if "!" <= character <= "~")[:255] or "-"
    head = f"<{_FACILITY * 8 + severity}>1 {time[1] if time else '-'} {name} brain-mri-worker - DICOM+RFC3881 - "
    message = head.encode() + b"\xef\xbb\xbf" + record.message.encode()  # the BOM says UTF-8 (RFC 5424 6.4)
    return b"%d %s" % (len(message), message)
