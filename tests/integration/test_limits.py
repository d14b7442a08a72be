"""What one peer may take: a dataset too large, a PDU that lies, silence, and an association without end."""

from __future__ import annotations

import hashlib
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from tests.faults import mutate
from tests.faults.wire import (
    ABORTED,
    ACCEPTED,
    Closed,
    Wire,
    action_command,
    associate_request,
    data_pdus,
    echo_command,
    status_of,
    store_command,
)
from tests.testbed import dcmtk
from tests.testbed.certificates import make_certificates
from tests.testbed.instances import encoded, mr_instance, write_series
from tests.testbed.raw_store import raw_store
from tests.testbed.receiver import receiving
from tests.testbed.waiting import wait_until
from worker.config.sections import PeerSection
from worker.db.engine import Database
from worker.db.series_status import unfinished_counts
from worker.db.tables import InstanceRow
from worker.dicom import commitment, standard
from worker.network.limited_messages import LimitedMessages
from worker.receive.fast_store import FastStore
from worker.storage.spool import Spool

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


def test_a_byte_now_and_then_is_no_negotiation(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, request_seconds=0.5) as (port, _),
        socket.create_connection(("127.0.0.1", port)) as peer,
    ):
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


ECHO = [(str(Verification), str(ImplicitVRLittleEndian))]


@contextmanager
def _crowd(port: int, number: int, *, calling: bytes | None = None) -> Iterator[list[Wire]]:
    """Connections; with `calling`, associations that do nothing."""
    with ExitStack() as stack:
        peers = [stack.enter_context(Wire(port)) for _ in range(number)]
        for index, peer in enumerate(peers if calling is not None else []):
            peer.send(associate_request(ECHO, calling=calling or b"HOG%d" % index))
            assert peer.receive()[0] == ACCEPTED
        yield peers


def _is_answered(port: int, calling: bytes = b"PACS") -> bool:
    with Wire(port) as peer:
        peer.send(associate_request(ECHO, calling=calling))
        return peer.receive()[0] == ACCEPTED


def _echo(peer: Wire, number: int = 1) -> int:
    for part in data_pdus(1, echo_command(number), command=True):
        peer.send(part)
    return status_of(peer.receive()[1])


def test_silent_connections_keep_nobody_out_and_are_cut(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_associations=4, request_seconds=1) as (port, _), _crowd(port, 200) as silent:
        assert all(_is_answered(port) for _ in range(4))
        for peer in silent:
            with pytest.raises(Closed):
                peer.receive()
        assert _is_answered(port)


def test_idle_associations_of_a_title_keep_nobody_out(tmp_path: Path) -> None:
    shares = {"maximum_associations": 6, "maximum_associations_per_ae_title": 4}
    with receiving(tmp_path, **shares) as (port, _), _crowd(port, 4, calling=b"HOG"):
        assert not _is_answered(port, b"HOG")
        assert _is_answered(port)


def test_idle_associations_under_many_titles_keep_no_known_peer_out(tmp_path: Path) -> None:
    peer = PeerSection(ae_title="PACS", host="127.0.0.1", port=104)
    shares = {"maximum_associations": 6, "reserved_associations": 2}
    with receiving(tmp_path, peers=(peer,), **shares) as (port, _), _crowd(port, 4, calling=b""):
        assert not _is_answered(port, b"OTHER")
        assert _is_answered(port)


def test_an_echo_now_and_then_holds_no_place_when_places_are_short(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, maximum_associations=2, yield_seconds=0.5) as (port, _),
        _crowd(port, 2, calling=b"HOG") as idle,
    ):
        for number in range(1, 5):
            assert [_echo(peer, number) for peer in idle] == [0, 0]
            time.sleep(0.15)
        assert _is_answered(port)
        assert idle[0].receive()[0] == ABORTED
        assert _echo(idle[1], 9) == 0  # nobody needs its place


def test_waiting_costs_no_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    next_pdu, get_msg = FastStore._next_pdu, LimitedMessages.get_msg
    monkeypatch.setattr(FastStore, "_next_pdu", lambda self: looks.append("reader") or next_pdu(self))
    monkeypatch.setattr(
        LimitedMessages, "get_msg", lambda self, block=False: looks.append("reactor") or get_msg(self, block)
    )
    with receiving(tmp_path) as (port, _), _crowd(port, 20), _crowd(port, 20, calling=b"IDLE"):
        time.sleep(1)
        looks.clear()
        time.sleep(2)
        assert looks.count("reader") <= 2.5 * 40
        assert looks.count("reactor") <= 2.5 * 20


def _begin_store(peer: Wire, content: bytes) -> None:
    [context] = peer.associate([(str(MRImageStorage), str(ExplicitVRLittleEndian))])
    for part in data_pdus(context, store_command(str(MRImageStorage), "1.2.3"), command=True):
        peer.send(part)
    *beginning, _last = data_pdus(context, content, command=False)
    for part in beginning:
        peer.send(part)


def test_unfinished_datasets_are_on_disk_and_gone_with_their_associations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of 12 MiB: no more is in memory than `memory_bytes`, small ones included."""
    spools: list[Spool] = []
    create = Spool.__init__
    monkeypatch.setattr(Spool, "__init__", lambda self, *values: spools.append(self) or create(self, *values))
    incoming = tmp_path / "data" / "instances" / "incoming"
    with receiving(tmp_path, memory_bytes=1 << 20) as (port, database):
        with _crowd(port, 14) as peers:
            for peer in peers[:10]:
                _begin_store(peer, bytes(12 << 20))
            for peer in peers[10:]:
                _begin_store(peer, bytes(400 << 10))
            wait_until(
                lambda: sum(path.stat().st_size for path in incoming.iterdir()) >= 10 * (12 << 20) - (2 << 20),
                "the datasets to be on disk", 30, every=0.05,
            )  # fmt: skip
            assert spools[0].held_bytes <= 1 << 20
            assert raw_store(port, MRImageStorage, "1.2.3", bytes(300_000)) != standard.OUT_OF_RESOURCES
        wait_until(lambda: not list(incoming.iterdir()), "the files to be gone", 30, every=0.05)
        wait_until(lambda: spools[0].held_bytes == 0, "the memory to be given back", 30, every=0.05)
        assert _series(database) == {"open": 0}


@pytest.mark.parametrize("side", [64, 1600])
def test_a_large_instance_is_stored_as_a_small_one(tmp_path: Path, side: int) -> None:
    ds = mr_instance(1, "large", Rows=side, Columns=side, PixelData=bytes(range(256)) * (side * side // 128))
    content = mutate.encode(ds, str(ExplicitVRLittleEndian))
    with receiving(tmp_path) as (port, database):
        for _ in range(2):  # the second is a repetition
            assert raw_store(port, MRImageStorage, str(ds.SOPInstanceUID), content) == standard.SUCCESS
        with database.read() as session:
            [row] = session.scalars(select(InstanceRow))
    stored = (tmp_path / "data" / row.path).read_bytes()
    assert stored.endswith(content)
    assert (row.size, row.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert list((tmp_path / "data" / "instances" / "incoming").iterdir()) == []


def test_a_query_larger_than_any_is_refused(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, _), Wire(port) as peer:
        peer.associate([(commitment.SOP_CLASS, str(ExplicitVRLittleEndian))])
        for part in [
            *data_pdus(1, action_command(), command=True),
            *data_pdus(1, bytes(3 << 20), command=False),
        ]:
            peer.send(part)
        assert status_of(peer.receive()[1]) == standard.RESOURCE_LIMITATION


def test_an_association_that_works_is_not_ended_for_another(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_associations=1, yield_seconds=4) as (port, _), Wire(port) as sender:
        [context] = sender.associate([(str(MRImageStorage), str(ExplicitVRLittleEndian))])
        ds = mr_instance(1, "slow", Rows=64, Columns=64, PixelData=bytes(2 * 64 * 64))
        content, uid = mutate.encode(ds, str(ExplicitVRLittleEndian)), str(ds.SOPInstanceUID)
        for part in data_pdus(context, store_command(str(MRImageStorage), uid), command=True):
            sender.send(part)
        for part in data_pdus(context, content, command=False, size=1 + len(content) // 8):
            time.sleep(0.6)
            sender.send(part)
            assert not _is_answered(port)
        assert status_of(sender.receive()[1]) == standard.SUCCESS


@pytest.mark.skipif(not (dcmtk.installed() and dcmtk.installed("openssl")), reason="DCMTK or openssl is not installed")
def test_a_peer_that_does_not_shake_hands_holds_up_no_other(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    certificate, key = certificates.files("peer")
    tls = {
        "tls_certificate": certificate,
        "tls_key": key,
        "tls_authority": certificates.authority,
        "request_seconds": 2,
    }
    with receiving(tmp_path, **tls) as (port, _), socket.create_connection(("127.0.0.1", port)):
        arguments = ["+tls", str(key), str(certificate), "+cf", str(certificates.authority)]
        dcmtk.run("echoscu", *arguments, "-aec", "AI_WORKER", "127.0.0.1", str(port))
        with socket.create_connection(("127.0.0.1", port)) as silent:
            assert _is_closed(silent)
