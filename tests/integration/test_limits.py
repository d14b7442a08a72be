"""What one peer may take: a dataset too large, a PDU that lies, silence, and an association without end."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE
from pynetdicom.acse import ACSE

from tests.testbed import dcmtk
from tests.testbed.certificates import make_certificates
from tests.testbed.instances import encoded, mr_instance, write_series
from tests.testbed.raw_store import raw_store
from tests.testbed.receiver import receiving
from tests.testbed.waiting import wait_until
from worker.db.engine import Database
from worker.db.series_status import unfinished_counts
from worker.dicom import standard
from worker.receive import limits

SMALLEST = 1 << 16


def _is_closed(connection: socket.socket) -> bool:
    """True once the other side has closed: what it sent before, an A-ABORT for example, is read away."""
    connection.settimeout(30)
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def _series(database: Database) -> dict[str, int]:
    with database.read() as session:
        return unfinished_counts(session)["series"]


@pytest.mark.skipif(not dcmtk.installed(), reason="DCMTK is not installed")
def test_a_dataset_above_the_limit_is_0xa700_and_leaves_nothing(tmp_path: Path) -> None:
    small = write_series(tmp_path / "small", 2, "small")
    large = tmp_path / "large.dcm"
    large.write_bytes(encoded(mr_instance(1, "large", Rows=512, Columns=512, PixelData=bytes(2 * 512 * 512))))
    with receiving(tmp_path, maximum_dataset_bytes=SMALLEST) as (port, database):
        said = dcmtk.storescu(port, [small[0], large, small[1]], "-v", check=False)
        assert "0xa700" in said.lower() or "OutOfResources" in said, said
        assert _series(database) == {"open": 1}
        assert raw_store(port, MRImageStorage, "1.2.3", bytes(SMALLEST + 1)) == standard.OUT_OF_RESOURCES
        assert raw_store(port, MRImageStorage, "1.2.3", bytes(SMALLEST)) != standard.OUT_OF_RESOURCES
    stored = list((tmp_path / "data").rglob("*.dcm"))
    assert [path.stat().st_size < SMALLEST for path in stored] == [True] * len(stored)
    assert list((tmp_path / "data" / "instances" / "incoming").iterdir()) == []


def test_a_pdu_that_claims_four_gigabytes_is_not_read(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, _), socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF))
        assert _is_closed(peer)


def test_silence_in_the_middle_of_a_pdu_ends_the_connection(tmp_path: Path) -> None:
    with receiving(tmp_path, idle_seconds=0.3) as (port, _), socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(struct.pack(">BBL", 1, 0, 200) + bytes(20))
        assert _is_closed(peer)


def test_a_byte_now_and_then_is_no_negotiation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_NEGOTIATION_SECONDS", 0.5)
    with receiving(tmp_path) as (port, _), socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(struct.pack(">BBL", 1, 0, 100_000))
        wait_until(lambda: not _goes_out(peer, b"\x00"), "the end of the connection", 30, every=0.05)


def _goes_out(connection: socket.socket, content: bytes) -> bool:
    try:
        connection.sendall(content)
    except OSError:  # a reset or a broken pipe
        return False
    return True


def test_an_association_ends_when_its_time_is_over(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_association_seconds=0.5) as (port, _):
        ae = AE(ae_title="PACS")
        ae.add_requested_context(MRImageStorage)
        assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
        wait_until(lambda: assoc.is_aborted, "an A-ABORT", 30, every=0.05)


def test_an_association_that_ends_just_now_is_not_taken_for_one_that_was_never_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def release_beside_a_look(acse: ACSE, is_response: bool = False) -> None:
        if is_response:  # pynetdicom has not answered yet
            monkeypatch.setattr(acse.assoc, "is_established", False)
            server = acse.assoc._server
            server.opened[acse.assoc] -= 2 * limits._NEGOTIATION_SECONDS
            looks.append(server.end_overdue())
        send_release(acse, is_response)

    send_release = ACSE.send_release
    with receiving(tmp_path) as (port, _):
        ae = AE(ae_title="PACS")
        ae.add_requested_context(MRImageStorage)
        assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
        monkeypatch.setattr(ACSE, "send_release", release_beside_a_look)
        assoc.release()
        wait_until(lambda: looks, "the release", 30, every=0.02)
    assert (looks, assoc.is_released, assoc.is_aborted) == ([0], True, False)


def test_connections_beyond_all_associations_are_closed_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_SPARE_CONNECTIONS", 0)
    with receiving(tmp_path, maximum_associations=1) as (port, _):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        wait_until(lambda: _connections(port) == 2, "both connections", 30, every=0.05)
        with socket.create_connection(("127.0.0.1", port)) as one_too_many:
            assert _is_closed(one_too_many)
        for connection in silent:
            connection.close()


def _connections(port: int) -> int:
    servers = [getattr(one, "_server", None) for one in threading.enumerate()]
    return sum(getattr(one, "server_address", None) == ("127.0.0.1", port) for one in servers)


@pytest.mark.skipif(not (dcmtk.installed() and dcmtk.installed("openssl")), reason="DCMTK or openssl is not installed")
def test_a_peer_that_does_not_shake_hands_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = make_certificates(tmp_path)
    certificate, key = certificates.files("peer")
    tls = {"tls_certificate": certificate, "tls_key": key, "tls_authority": certificates.authority}
    with receiving(tmp_path, **tls) as (port, _), socket.create_connection(("127.0.0.1", port)):
        arguments = ["+tls", str(key), str(certificate), "+cf", str(certificates.authority)]
        dcmtk.run("echoscu", *arguments, "-aec", "AI_WORKER", "127.0.0.1", str(port))
        monkeypatch.setattr(limits, "_HANDSHAKE_SECONDS", 0.3)
        with socket.create_connection(("127.0.0.1", port)) as silent:
            assert _is_closed(silent)
