"""The audit trail's copy at a syslog server over TLS; the web port over TLS."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import uvicorn

from tests.testbed import dcmtk
from tests.testbed.certificates import Certificates, make_certificates
from tests.testbed.databases import make_tables
from tests.testbed.waiting import patience, wait_until
from worker.audit import events
from worker.audit.recorder import Recorder, trail_of
from worker.audit.trail import Trail
from worker.config.sections import AuditSection, WebSection, WorkerSection
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.service.web_server import web_config
from worker.tls import server_context
from worker.web.app import create_app

pytestmark = pytest.mark.skipif(
    not (dcmtk.installed() and dcmtk.installed("openssl")), reason="DCMTK or openssl is not installed"
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


class Syslog:
    """A server that reads RFC 5425 frames over TLS, with certificates on both sides."""

    def __init__(self, certificates: Certificates) -> None:
        self.messages: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._context = server_context(*certificates.files("peer"), certificates.authority)
        self._open: list[ssl.SSLSocket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with plain, suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
                self._open.append(connection)
                self._read(connection)

    def _read(self, connection: ssl.SSLSocket) -> None:
        waiting = b""
        while part := connection.recv(65536):
            waiting += part
            while match := re.match(rb"(\d+) ", waiting):
                end = match.end() + int(match[1])
                if len(waiting) < end:
                    break
                self.messages.append(waiting[match.end() : end])
                waiting = waiting[end:]

    def drop(self) -> None:
        """Close the connection, as a server that restarts does."""
        for connection in self._open:
            with suppress(OSError):  # the client may have closed it
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        self._thread.join(10)


def _tls(certificates: Certificates) -> dict[str, Path]:
    certificate, key = certificates.files("peer")
    return {"tls_certificate": certificate, "tls_key": key, "tls_authority": certificates.authority}


@pytest.fixture
def syslog(certificates: Certificates) -> Iterator[Syslog]:
    server = Syslog(certificates)
    yield server
    server.close()


def test_each_record_reaches_the_syslog_server_also_after_it_was_away(
    tmp_path: Path, certificates: Certificates, syslog: Syslog
) -> None:
    audit = AuditSection(source="here", syslog_host="127.0.0.1", syslog_port=syslog.port, **_tls(certificates))
    settings = Settings(worker=WorkerSection(data_dir=tmp_path), audit=audit)
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    recorder = Recorder(settings, database, lambda: datetime.now(UTC))
    recorder.start()
    recorder.record(events.signed_in("ward", "::1"))
    recorder.record(events.access_denied("unknown", "::1", "/", "token missing"))
    wait_until(lambda: len(syslog.messages) == 2, "two messages to arrive")
    syslog.drop()
    recorder.record(events.signed_out("ward", "::1"))
    wait_until(lambda: len(syslog.messages) == 3, "the message after the server came back")
    recorder.close()
    database.close()

    heads = [message.partition("\ufeff".encode()) for message in syslog.messages]
    assert [head.split()[0] for head, _, _ in heads] == [b"<85>1", b"<84>1", b"<85>1"]
    assert all(head.split()[2:] == [b"here", b"brain-mri-worker", b"-", b"DICOM+RFC3881", b"-"] for head, _, _ in heads)
    assert all(datetime.fromisoformat(head.split()[1].decode()).tzinfo for head, _, _ in heads)
    sent = [body.decode() for _, _, body in heads]
    assert sent == [record.message for record in trail_of(settings).records()]


def test_a_server_that_cannot_prove_who_it_is_gets_nothing(
    tmp_path: Path, certificates: Certificates, syslog: Syslog
) -> None:
    from worker.audit.syslog import Forwarder

    files = _tls(certificates) | {"tls_authority": certificates.folder / "stranger.pem"}
    audit = AuditSection(source="here", syslog_host="127.0.0.1", syslog_port=syslog.port, **files)
    trail = Trail(tmp_path, "here", 1 << 20)
    trail.append(["<AuditMessage/>"])
    with pytest.raises(ssl.SSLError):
        Forwarder(audit, trail).forward()
    assert syslog.messages == []


def test_the_web_port_speaks_tls_and_the_session_s_cookie_is_for_tls_only(
    tmp_path: Path, certificates: Certificates
) -> None:
    certificate, key = certificates.files("peer")
    settings = Settings(web=WebSection(tls_certificate=certificate, tls_key=key))
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    with database.write() as session:
        _, token = tokens.add_token(session, "ward", TokenRole.READ, datetime.now(UTC), None)
    server = uvicorn.Server(web_config(settings, create_app(settings, database)))
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"https://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    trusted = ssl.create_default_context(cafile=str(certificates.authority))
    try:
        with httpx.Client(verify=trusted, timeout=patience(60)) as client:
            done = client.post(f"{address}/sign-in", data={"token": token})
            old = ssl.create_default_context(cafile=str(certificates.authority))
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            old.set_ciphers("AES128-SHA")  # no forward secrecy: not in the profile of BCP 195
            with pytest.raises(httpx.ConnectError):
                httpx.get(address, verify=old, timeout=patience(60))
    finally:
        server.should_exit = True
        thread.join()
        database.close()
    assert done.status_code == 303
    assert "secure" in done.headers["set-cookie"].lower()
