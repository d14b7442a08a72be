"""C-STORE as bytes on a socket: what is read straight off the connection, and what is left to pynetdicom."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from tests.faults.wire import ABORTED, DATA, Closed, Wire, data_pdus, pdu, status_of, store_command
from tests.testbed.instances import encoded, mr_instance
from tests.testbed.receiver import receiving
from worker.db.engine import Database
from worker.db.tables import InstanceRow
from worker.dicom import standard
from worker.network.part10 import file_beginning
from worker.receive.storage_scp import Receiver

CONTEXTS = [(MRImageStorage, ExplicitVRLittleEndian), (Verification, ExplicitVRLittleEndian)]
STORE, ECHO = 1, 3


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Database, Path]]:
    folder = tmp_path_factory.mktemp("direct")
    with receiving(folder) as (port, database):
        yield port, database, folder / "data"


@pytest.fixture
def peer(site: tuple[int, Database, Path]) -> Iterator[Wire]:
    with Wire(site[0]) as wire:
        assert wire.associate(CONTEXTS) == [STORE, ECHO]
        yield wire


def _parts(ds: Any) -> tuple[str, bytes, bytes]:
    """Its UID, the command of its C-STORE and its dataset's bytes."""
    file = encoded(ds)
    dataset = file[144 + struct.unpack("<I", file[140:144])[0] :]
    return ds.SOPInstanceUID, store_command(MRImageStorage, ds.SOPInstanceUID), dataset


def _value(context_id: int, control: int, content: bytes) -> bytes:
    return struct.pack(">IBB", len(content) + 2, context_id, control) + content


def _kept(site: tuple[int, Database, Path], uid: str) -> bytes:
    with site[1].read() as session:
        row = session.scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid == uid)).one()
    return (site[2] / row.path).read_bytes()


def _answer(peer: Wire) -> int:
    kind, body = peer.receive()
    if kind != DATA:
        raise Closed(aborted=kind == ABORTED)
    return status_of(body)


@pytest.mark.parametrize("size", [50, 1 << 10, 1 << 17])
def test_a_dataset_in_pieces_of_any_size_is_kept_as_sent(
    site: tuple[int, Database, Path], peer: Wire, size: int
) -> None:
    uid, command, dataset = _parts(mr_instance(1, f"by {size}"))
    for fragment in (*data_pdus(STORE, command, command=True), *data_pdus(STORE, dataset, command=False, size=size)):
        peer.send(fragment)
    assert _answer(peer) == standard.SUCCESS
    peer.release()
    kept = _kept(site, uid)
    assert kept.endswith(dataset)
    assert kept[: -len(dataset)] == file_beginning(MRImageStorage, uid, ExplicitVRLittleEndian)


def test_command_and_dataset_may_share_a_pdu_that_comes_byte_by_byte(
    site: tuple[int, Database, Path], peer: Wire
) -> None:
    uid, command, dataset = _parts(mr_instance(1, "one pdu"))
    whole = pdu(DATA, _value(STORE, 3, command) + _value(STORE, 0, dataset[:100]) + _value(STORE, 2, dataset[100:]))
    for place in range(0, 400):
        peer.send(whole[place : place + 1])
    peer.send(whole[400:])
    assert _answer(peer) == standard.SUCCESS
    assert _kept(site, uid).endswith(dataset)


def test_a_command_in_pieces_is_left_to_pynetdicom_and_kept_all_the_same(
    site: tuple[int, Database, Path], peer: Wire
) -> None:
    uid, command, dataset = _parts(mr_instance(1, "old way"))
    peer.send(pdu(DATA, _value(STORE, 1, command[:20])))
    peer.send(pdu(DATA, _value(STORE, 3, command[20:]) + _value(STORE, 0, dataset[:10])))
    peer.send(pdu(DATA, _value(STORE, 2, dataset[10:])))
    assert _answer(peer) == standard.SUCCESS
    assert _kept(site, uid).endswith(dataset)


def test_what_does_not_belong_to_the_request_ends_the_association(site: tuple[int, Database, Path]) -> None:
    _, command, dataset = _parts(mr_instance(1, "broken"))
    begun = pdu(DATA, _value(STORE, 3, command) + _value(STORE, 0, dataset[:10]))
    for wrong in (
        _value(ECHO, 2, dataset[10:]),  # another context
        _value(STORE, 3, command),  # a command before the dataset's end
        struct.pack(">IBB", 1 << 20, STORE, 2),  # a fragment longer than its PDU
        struct.pack(">IB", 1, STORE),  # not even the control header
        _value(STORE, 2, dataset[10:]) + _value(STORE, 2, b"and more"),
    ):
        with Wire(site[0]) as peer:
            peer.associate(CONTEXTS)
            peer.send(begun)
            peer.send(pdu(DATA, wrong))
            kind, _ = peer.receive()
            assert kind == ABORTED or (kind == DATA and peer.receive()[0] == ABORTED)


def test_an_abort_in_the_middle_of_a_dataset_leaves_nothing(site: tuple[int, Database, Path]) -> None:
    uid, command, dataset = _parts(mr_instance(1, "aborted"))
    with Wire(site[0]) as peer:
        peer.associate(CONTEXTS)
        peer.send(pdu(DATA, _value(STORE, 3, command) + _value(STORE, 0, dataset[:10])))
        peer.send(pdu(ABORTED, bytes(4)))
        with pytest.raises(Closed):
            peer.receive()
    with site[1].read() as session:
        assert not session.scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid == uid)).all()


def test_a_peer_is_not_taken_for_silent_while_it_waits_for_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Receiver._store

    def slow(*arguments: Any) -> int:
        time.sleep(1.0)
        return real(*arguments)

    monkeypatch.setattr(Receiver, "_store", slow)
    with receiving(tmp_path, idle_seconds=0.3) as (port, _), Wire(port) as peer:
        peer.associate(CONTEXTS)
        uid, _, dataset = _parts(mr_instance(1))
        assert peer.store(STORE, MRImageStorage, uid, dataset) == standard.SUCCESS
