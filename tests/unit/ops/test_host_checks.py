"""What this host must have before `serve` can start, found before it is started."""

from __future__ import annotations

import os
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.certificates import make_certificates
from tests.testbed.dcmtk import free_port
from worker.config.settings import Settings
from worker.ops.host_checks import Finding, folders, host_names, listeners, syslog_server, tls_files

NOW = datetime.now(UTC)


def _settings(tmp_path: Path, **sections: dict[str, Any] | list[dict[str, Any]]) -> Settings:
    url = f"sqlite:///{tmp_path}/db/worker.db"
    return Settings.model_validate({"worker": {"data_dir": tmp_path / "data"}, "database": {"url": url}, **sections})


def test_a_folder_that_cannot_be_made_is_told_by_what_is_in_the_way(tmp_path: Path) -> None:
    assert [(finding.subject, finding.well) for finding in folders(_settings(tmp_path))] == [
        ("data folder", True), ("database folder", True),
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())
    (tmp_path / "data").write_text("a file")
    [data, database] = [finding for finding in folders(_settings(tmp_path)) if finding.subject != "audit folder"]
    assert (data.well, data.detail) == (
        False, f"{tmp_path}/data cannot be made: {tmp_path}/data is not a folder",
    )  # fmt: skip
    assert database.well


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert f"{tmp_path} is not writable" in next(folders(_settings(tmp_path))).detail
    tmp_path.chmod(0o700)


def _ports(tmp_path: Path, receive: tuple[str, int], web: tuple[str, int], *running: str) -> list[Finding]:
    named = {
        section: dict(zip(("host", "port"), at, strict=True)) for section, at in (("receive", receive), ("web", web))
    }
    return list(listeners(_settings(tmp_path, **named), running))


def test_each_listener_is_tried(tmp_path: Path) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        receive, web = _ports(tmp_path, ("127.0.0.1", taken), ("nowhere.invalid", free))
        assert (receive.well, receive.detail) == (
            False, f"[receive] cannot listen on 127.0.0.1:{taken}: address already in use",
        )  # fmt: skip
        assert receive.advice == "stop the program that uses it, or set [receive] port"
        assert "the host name 'nowhere.invalid' does not resolve" in web.detail
        assert _ports(tmp_path, ("127.0.0.1", taken), ("127.0.0.1", free), "receive")[0].detail == (
            f"127.0.0.1:{taken}, held by the running worker"
        )
    for host in ("127.0.0.1", "0.0.0.0"):
        assert {finding.detail for finding in _ports(tmp_path, (host, free), ("127.0.0.1", free))} == {
            f"[receive] and [web] both have port {free}"
        }
    assert all(finding.well for finding in _ports(tmp_path, ("127.0.0.1", free), ("127.0.0.1", taken)))


def test_tls_files_of_every_section_are_read(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = make_certificates(tmp_path)
    certificate, key = made.files("peer")
    mixed = {"tls_certificate": certificate, "tls_key": made.files("stranger")[1]}
    ending = {"tls_certificate": certificate, "tls_key": key, "tls_authority": made.authority}
    absent = {"tls_certificate": tmp_path / "absent.pem", "tls_key": key, "tls_authority": made.authority}
    peer = {"ae_title": "PEER", "host": "127.0.0.1", "port": 104, **absent}
    audit = {"syslog_host": "127.0.0.1", **ending}
    found = {
        finding.subject: finding
        for finding in tls_files(_settings(tmp_path, receive=ending, web=mixed, peer=[peer], audit=audit), NOW)
    }
    assert list(found) == ["[receive] TLS", "[web] TLS", "peer PEER TLS", "[audit] TLS"]
    assert "expires on" in found["[receive] TLS"].detail  # it is made for two days
    assert "is not the key of" in found["[web] TLS"].detail
    assert found["peer PEER TLS"].detail == f"there is no {tmp_path}/absent.pem"
    assert not any(finding.well for finding in found.values())


def test_names_of_peers_and_of_the_syslog_server_are_resolved(tmp_path: Path) -> None:
    peers = [{"ae_title": name, "host": host, "port": 104} for name, host in (("A", "127.0.0.1"), ("B", "no.invalid"))]
    known, unknown = host_names(_settings(tmp_path, peer=peers))
    assert known.well
    assert (unknown.well, unknown.detail) == (False, "the host name 'no.invalid' does not resolve; is it spelt right?")
    assert list(syslog_server(_settings(tmp_path))) == []
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = make_certificates(tmp_path)
    certificate, key = made.files("peer")
    files = {"tls_certificate": certificate, "tls_key": key, "tls_authority": made.authority}
    [away] = syslog_server(_settings(tmp_path, audit={"syslog_host": "no.invalid", **files}))
    assert "the host name 'no.invalid' does not resolve" in away.detail
