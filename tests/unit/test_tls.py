"""TLS contexts, with certificates of openssl and handshakes in memory."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.testbed.certificates import Certificates, make_certificates
from worker.errors import StartError
from worker.tls import association_arguments, certificate_fault, client_context, server_context, web_context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "127.0.0.1") -> str | None:
    """The protocol that both agree on. Raises SSLError where either refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(4):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ours.write(b"x")  # a TLS 1.3 client learns of a refused certificate only when it reads
    assert theirs.read(1) == b"x"
    return theirs.version()


def test_both_sides_show_certificates_of_the_authority(certificates: Certificates) -> None:
    server = server_context(*certificates.files("peer"), certificates.authority)
    client = client_context(*certificates.files("peer"), certificates.authority)
    assert _handshake(server, client) == "TLSv1.3"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert _handshake(server, client) == "TLSv1.2"


def test_a_stranger_and_a_peer_without_a_certificate_are_rejected(certificates: Certificates) -> None:
    server = server_context(*certificates.files("peer"), certificates.authority)
    for files in (certificates.files("stranger"), (None, None)):
        with pytest.raises(ssl.SSLError):
            _handshake(server, client_context(*files, certificates.authority))


def test_a_destination_must_have_a_certificate_of_its_host(certificates: Certificates) -> None:
    client = client_context(*certificates.files("peer"), certificates.authority)
    for name, host in (("stranger", "127.0.0.1"), ("peer", "127.0.0.2")):
        with pytest.raises(ssl.SSLCertVerificationError):
            _handshake(web_context(*certificates.files(name)), client, host)


def test_a_browser_needs_no_certificate(certificates: Certificates) -> None:
    client = client_context(None, None, certificates.authority)
    assert _handshake(web_context(*certificates.files("peer")), client) == "TLSv1.3"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_older_protocol_or_a_weak_cipher_is_rejected(certificates: Certificates) -> None:
    server = web_context(*certificates.files("peer"))
    older = client_context(None, None, certificates.authority)
    older.minimum_version = ssl.TLSVersion.TLSv1
    older.maximum_version = ssl.TLSVersion.TLSv1_1
    weak = client_context(None, None, certificates.authority)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA")  # no forward secrecy
    for client in (older, weak):
        with pytest.raises(ssl.SSLError):
            _handshake(server, client)


def test_files_that_cannot_be_used_are_named(certificates: Certificates, tmp_path: Path) -> None:
    certificate, key = certificates.files("peer")
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(StartError, match=r"there is no .*absent\.pem"):
        web_context(certificate, tmp_path / "absent.pem")
    with pytest.raises(StartError, match=r"stranger-key\.pem is not the key of .*peer\.pem"):
        web_context(certificate, certificates.files("stranger")[1])
    with pytest.raises(StartError, match="tls-file-missing"):
        server_context(certificate, key, tmp_path / "absent.pem")
    with pytest.raises(StartError, match=r"junk\.pem cannot be used: not a PEM file of certificates"):
        server_context(certificate, key, junk)
    with pytest.raises(StartError, match="not a PEM certificate with its key"):
        web_context(junk, key)
    with pytest.raises(StartError, match="cannot be read: Is a directory"):
        web_context(certificate, tmp_path)


def test_a_key_with_a_passphrase_is_not_asked_for_at_the_terminal(certificates: Certificates, tmp_path: Path) -> None:
    certificate, key = certificates.files("peer")
    encrypted = tmp_path / "encrypted.pem"
    command = ["openssl", "rsa", "-aes128", "-passout", "pass:word", "-in", key, "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(StartError, match="give a key without a passphrase"):
        web_context(certificate, encrypted)


@pytest.mark.parametrize("of_server", [True, False])
def test_a_certificate_that_ends_within_a_month_is_told(certificates: Certificates, of_server: bool) -> None:
    now = datetime.now(UTC)  # the certificates are made for two days
    files = certificates.files("peer")
    fault = certificate_fault(*files, now, of_server=of_server)
    assert fault is not None
    assert fault.startswith(f"{files[0]} expires on {now + timedelta(days=2):%Y-%m-%d}")
    assert certificate_fault(*files, now - timedelta(days=29), of_server=of_server) is None


def test_an_association_without_files_is_not_over_tls(certificates: Certificates) -> None:
    certificate, key = certificates.files("peer")
    assert association_arguments(None, None, None, "host") is None
    assert association_arguments(certificate, key, None, "host") is None
    found = association_arguments(certificate, key, certificates.authority, "host")
    assert found is not None
    assert found[1] == "host"
