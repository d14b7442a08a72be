"""The web port as `worker serve` opens it: whose word about an address is believed, how long a handshake may take."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.testbed.certificates import Certificates, make_certificates
from tests.testbed.databases import make_tables
from tests.testbed.waiting import patience, wait_until
from worker.audit.messages import AuditEvent
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.service.web_server import web_config
from worker.web.app import create_app
from worker.web.limits import connections


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@contextmanager
def serving(folder: Path, events: list[AuditEvent], **web: Any) -> Iterator[tuple[int, str]]:
    """The port, and a token that reads."""
    settings = Settings.model_validate({"worker": {"data_dir": folder}, "web": web})
    database = Database(f"sqlite:///{folder / 'worker.db'}")
    make_tables(database)
    with database.write() as session:
        _, token = tokens.add_token(session, None, TokenRole.READ, datetime.now(UTC), None)
    server = uvicorn.Server(web_config(settings, create_app(settings, database, events.append)))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started, 10)
        yield listener.getsockname()[1], token
    finally:
        server.should_exit = True
        thread.join()
        database.close()


@pytest.mark.parametrize(
    ("proxies", "address", "details"),
    [([], "127.0.0.1", False), (["10.0.0.0/8"], "127.0.0.1", False), (["127.0.0.1"], "192.0.2.7", False)],
)
def test_a_forwarded_address_is_believed_from_a_trusted_proxy_only(
    tmp_path: Path, proxies: list[str], address: str, details: bool
) -> None:
    events: list[AuditEvent] = []
    forwarded = {"X-Forwarded-For": "203.0.113.9, 192.0.2.7", "X-Forwarded-Proto": "https"}
    with serving(tmp_path, events, trusted_proxies=proxies) as (port, token):
        base = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{base}/api/v1/jobs", headers=forwarded, timeout=patience(30)).status_code == 401
        done = httpx.post(f"{base}/sign-in", data={"token": token}, headers=forwarded, timeout=patience(30))
        health = httpx.get(f"{base}/health", headers=forwarded, timeout=patience(30))
        own = httpx.get(f"{base}/health", timeout=patience(30))
    assert [event.participants[0].address for event in events] == [address, address]
    assert ("secure" in done.headers["set-cookie"].lower()) is (proxies == ["127.0.0.1"])
    assert ("checks" in health.json()) is details
    assert "checks" in own.json()


def test_unfinished_handshakes_end_soon_and_lock_nobody_out(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    certificate, key = certificates.files("peer")
    trusted = ssl.create_default_context(cafile=str(certificates.authority))
    with serving(tmp_path, [], tls_certificate=str(certificate), tls_key=str(key)) as (port, _):
        halves = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        for half in halves:
            half.sendall(b"\x16\x03\x01")
        live = httpx.get(f"https://127.0.0.1:{port}/health/live", verify=trusted, timeout=patience(30))
        assert live.status_code == 200
        for half in halves:
            half.settimeout(patience(10))
            try:
                assert half.recv(1) == b""
            except ConnectionResetError:
                continue
            finally:
                half.close()
