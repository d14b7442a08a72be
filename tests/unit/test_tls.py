"""TLS contexts, with certificates of openssl and handshakes in memory."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest

from tests.testbed.certificates import Certificates, make_certificates
from worker.errors import StartError
from worker.tls import association_arguments, client_context, server_context, web_context


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
    with pytest.raises(StartError, match=r"there is no .*absent\.pem"):
        web_context(certificate, tmp_path / "absent.pem")
    with pytest.raises(StartError, match="cannot be used"):
        web_context(certificate, certificates.files("stranger")[1])  # the key of another certificate
    with pytest.raises(StartError, match="tls-file-missing"):
        server_context(certificate, key, tmp_path / "absent.pem")


def test_an_association_without_files_is_not_over_tls(certificates: Certificates) -> None:
    certificate, key = certificates.files("peer")
    assert association_arguments(None, None, None, "host") is None
    assert association_arguments(certificate, key, None, "host") is None
    found = association_arguments(certificate, key, certificates.authority, "host")
    assert found is not None
    assert found[1] == "host"
