"""The short form of the rows of `make soak` that send hostile bytes, and a test of each defect that they found."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, RLELossless

from tests.faults import fuzz, mutate, wire
from tests.faults.bed import Outcome
from tests.faults.wire import Closed, Wire
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.waiting import wait_until
from worker.config.sections import ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import open_associations
from worker.errors import NotAssessable
from worker.pixels.decode import decode
from worker.receive.storage_scp import Receiver


@pytest.mark.timeout(900)
def test_hostile_bytes_end_in_a_status_or_an_abort(tmp_path: Path) -> None:
    _holds(fuzz.hostile_bytes(tmp_path, datasets=100, pdus=40))


def test_mutated_files_end_in_a_tensor_or_a_reason(tmp_path: Path) -> None:
    _holds(fuzz.mutated_files(tmp_path, 165))


def _holds(outcome: Outcome) -> None:
    assert (outcome.notes, outcome.lost, outcome.duplicated) == ([], 0, 0)
    assert outcome.survived == outcome.tries > 0


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A receiver in this process that takes two associations at once."""
    receive = ReceiveSection(host="127.0.0.1", port=free_port(), minimum_free_bytes=0, maximum_associations=2)
    settings = Settings(worker=WorkerSection(data_dir=tmp_path / "data"), receive=receive)
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    receiver = Receiver(settings, database, lambda: datetime.now(UTC))
    receiver.start()
    yield receive.port
    wait_until(lambda: not _acceptors(), "the associations' threads to end", 60, every=0.05)
    with database.read() as session:
        assert open_associations(session) == []
    receiver.stop(1)
    database.close()


def _read_to_the_end(peer: Wire) -> None:
    """TimeoutError when the other side does not end the connection."""
    with suppress(Closed):
        while True:
            peer.receive()


def _acceptors() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if "AcceptorThread" in one.name]


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", wire.RELEASE_REQUEST, b"", b"\x01\x00\x00"])
def test_what_never_asks_for_an_association_takes_nobodys_place(port: int, first: bytes) -> None:
    for _ in range(4):  # twice as many as there are places
        with Wire(port) as peer:
            peer.send(first)
            peer.end_sending()
            _read_to_the_end(peer)
    # Without the end of their wait, each would hold its place for half a minute.
    wait_until(lambda: not _acceptors(), "the associations' threads to end", 20, every=0.05)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_invalid_event_ends_the_association_and_its_row(port: int) -> None:
    ds = mutate.valid(1)
    with Wire(port) as peer:
        [context] = peer.associate([(MRImageStorage, ExplicitVRLittleEndian)])
        content = mutate.encode(ds, ExplicitVRLittleEndian)
        assert peer.store(context, MRImageStorage, str(ds.SOPInstanceUID), content) == 0
        peer.send(wire.pdu(0x02, bytes(68)) + wire.pdu(0x05, bytes(4)) + wire.pdu(0x01, bytes(68)))
        _read_to_the_end(peer)


def _decode(tmp_path: Path, syntax: str, content: bytes) -> None:
    ds = mutate.valid(1, syntax)
    path = tmp_path / "a.dcm"
    path.write_bytes(mutate.as_file(mutate.Mutant("", syntax, ds.SOPClassUID, ds.SOPInstanceUID, content)))
    decode(path)


def _contradicting(samples: int) -> bytes:
    """JPEG 2000 in grey under a header of RGB: GDCM would call abort()."""
    ds = mutate.valid(1, JPEG2000Lossless)
    ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PhotometricInterpretation = samples, 0, "RGB"
    return mutate.encode(ds, JPEG2000Lossless)


def test_a_codestream_with_other_samples_than_the_header_says_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(NotAssessable) as refusal:
        _decode(tmp_path, JPEG2000Lossless, _contradicting(3))
    assert refusal.value.reason == "pixel-data-unreadable"


def test_a_wrong_photometric_interpretation_does_not_abort_the_process(tmp_path: Path) -> None:
    _decode(tmp_path, JPEG2000Lossless, _contradicting(1))


@pytest.mark.parametrize("number", [581, 2452, 10940, 19466])
def test_mutants_that_ended_the_process_in_gdcm_end_in_a_tensor_or_a_reason(number: int, tmp_path: Path) -> None:
    """Of `make soak`'s files: JPEG Baseline whose header or codestream lies. GDCM called abort(), or ran astray."""
    assert not fuzz.preprocess_one(mutate.dataset(number, seed=9), tmp_path / "a.dcm").startswith("fault")


def test_a_codec_that_panics_is_a_reason_not_the_end_of_the_process(tmp_path: Path) -> None:
    content = mutate.encode(mutate.valid(1, RLELossless), RLELossless)
    # The RLE header (PS3.5 G.5) says two segments, of which the second begins beyond the end.
    place = content.index(struct.pack("<II", 2, 64))
    with pytest.raises(NotAssessable) as refusal:
        _decode(tmp_path, RLELossless, content[: place + 8] + struct.pack("<I", 1 << 20) + content[place + 12 :])
    assert refusal.value.reason == "pixel-data-unreadable"
