"""Peers of all kinds, of which we fetch by C-GET and C-MOVE: pynetdicom's SCP does what a test chooses, and DCMTK's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import MRImageStorage
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyRootGet
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyRootMove
from sqlalchemy import func, select

from tests.testbed import dcmtk
from tests.testbed.child import in_child
from tests.testbed.command import command
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port, wait_for_port
from tests.testbed.instances import encoded, later, mr_instance, write_compressed, write_series
from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.processes import FETCH, is_lost, list_processes
from worker.db.settling import broken_transfers
from worker.db.tables import AssociationEnd, AssociationRow, InstanceRow, RefusedInstanceRow, SeriesRow
from worker.dicom import standard
from worker.errors import Retry
from worker.fetch import retrieval
from worker.fetch.retrieval import Fetched, fetch_study
from worker.process import process_name
from worker.storage.associations import close_dead_associations
from worker.storage.spool import remove_leftovers
from worker.storage.store import InstanceStore

STUDY = str(mr_instance(1).StudyInstanceUID)
Responses = Iterator[Any]


def image(number: int, **changes: Any) -> Dataset:
    """An image with its transfer syntax, which who sends it needs."""
    ds = mr_instance(number, **changes)
    encoded(ds)
    return ds


def _found(_event: evt.Event) -> Responses:
    """The answer to C-FIND: the study."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", STUDY
    yield standard.PENDING, identifier


@contextmanager
def archive(responses: Callable[[evt.Event], Responses], syntaxes: Any = None) -> Iterator[PeerSection]:
    """A peer whose C-GET yields these: the number of sub-operations, then statuses and datasets."""
    ae = AE(ae_title="ARCHIVE")
    ae.add_supported_context(StudyRootGet)
    ae.add_supported_context(StudyRootFind)
    for context in syntaxes if syntaxes is not None else [build_context("1.2.840.10008.5.1.4.1.1.4")]:
        ae.add_supported_context(context.abstract_syntax, context.transfer_syntax, scu_role=True, scp_role=True)
    port = free_port()
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_GET, responses), (evt.EVT_C_FIND, _found)]
    )
    try:
        yield PeerSection(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout_seconds=20)
    finally:
        server.shutdown()


class Here:
    """A database and a data folder, and what a fetch leaves there."""

    def __init__(self, database: Database, folder: Path, **receive: int) -> None:
        self.database, self.folder = database, folder
        self.events: list[Any] = []
        values = {"worker": {"data_dir": folder}, "receive": {"minimum_free_bytes": 0, **receive}}
        self.settings = Settings.model_validate(values)
        self.store = InstanceStore(self.settings, database, lambda: later(0), self.events.append)

    def fetch(self, peer: PeerSection) -> tuple[int, int]:
        fetched = fetch_study(peer, "AI_WORKER", STUDY, self.store)
        return fetched.completed, fetched.failed

    def stored(self) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(InstanceRow)) or 0

    def ends(self) -> list[str | None]:
        with self.database.read() as session:
            return list(session.scalars(select(AssociationRow.ended).order_by(AssociationRow.id)))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    yield database
    database.close()


@pytest.fixture
def here(database: Database, tmp_path: Path) -> Iterator[Here]:
    here = Here(database, tmp_path / "var")
    yield here
    here.store.close()
    assert list((tmp_path / "var" / "instances" / "incoming").iterdir()) == []
    assert here.store.spool.held_bytes == 0


def test_an_instance_is_durable_when_its_success_is_answered(here: Here) -> None:
    durable: list[int] = []

    def responses(_event: evt.Event) -> Responses:
        yield 3
        for number in (1, 2, 3):
            yield standard.PENDING, image(number)
            durable.append(here.stored())  # the response to the C-STORE has arrived
            assert len(list(here.folder.rglob("*.dcm"))) == here.stored()

    with archive(responses) as peer:
        assert here.fetch(peer) == (3, 0)
        assert here.fetch(peer) == (3, 0)  # a repetition
    assert durable == [1, 2, 3, 3, 3, 3]
    assert here.stored() == 3
    assert here.ends() == [AssociationEnd.RELEASED] * 2
    [received] = here.events  # of the second time there is nothing new
    assert [participant.user_id for participant in received.participants] == ["ARCHIVE", "AI_WORKER"]


def test_what_is_refused_here_or_fails_there_is_counted(here: Here, database: Database, tmp_path: Path) -> None:
    def responses(_event: evt.Event) -> Responses:
        yield 4
        yield standard.PENDING, image(1)
        yield standard.PENDING, image(2, PixelData=bytes(1 << 17), Rows=256, Columns=256)  # too large
        yield standard.PENDING, image(3, SeriesInstanceUID=None)
        yield standard.PENDING, image(4, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")  # CT: no context

    small = Here(database, tmp_path / "small", maximum_dataset_bytes=1 << 16)
    with archive(responses) as peer:
        assert small.fetch(peer) == (1, 3)
    small.store.close()
    with database.read() as session:
        reasons = session.scalars(select(RefusedInstanceRow.reason).order_by(RefusedInstanceRow.reason)).all()
    assert reasons == ["dataset-too-large", "invalid-uid"]


def test_nothing_is_stored_on_a_full_disk(database: Database, tmp_path: Path) -> None:
    def responses(_event: evt.Event) -> Responses:
        yield 1
        yield standard.PENDING, image(1)

    full = Here(database, tmp_path / "full", minimum_free_bytes=1 << 60)
    with archive(responses) as peer, pytest.raises(Retry, match=r"could not send .* 0 images stored, 1 failed"):
        full.fetch(peer)
    full.store.close()
    assert full.stored() == 0


@pytest.mark.parametrize(
    ("last", "said", "end"),
    [
        ("abort", "ended the association or is silent: 1 image stored", AssociationEnd.LOST),
        (standard.CANCEL, "cancelled the retrieval: 1 image stored", AssociationEnd.ABORTED),
        (0xA701, "answered status 0xA701", AssociationEnd.ABORTED),
    ],
)
def test_a_transfer_that_breaks_off_says_so_and_a_second_completes_it(
    here: Here, last: str | int, said: str, end: AssociationEnd
) -> None:
    ends = [last]

    def responses(event: evt.Event) -> Responses:
        yield 2
        yield standard.PENDING, image(1)
        for status in list(ends):
            ends.clear()
            if status == "abort":
                event.assoc.abort()
                return
            yield status, None
            return
        yield standard.PENDING, image(2)

    with archive(responses) as peer:
        with pytest.raises(Retry, match=said):
            here.fetch(peer)
        assert here.stored() == 1
        assert here.ends() == [end]
        assert here.fetch(peer) == (2, 0)
    assert here.stored() == 2


def test_a_c_get_that_takes_longer_than_the_limit_says_so(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def responses(_event: evt.Event) -> Responses:
        yield 2
        yield standard.PENDING, image(1)
        time.sleep(0.6)
        yield standard.PENDING, image(2)

    monkeypatch.setattr(retrieval, "_LONGEST_SECONDS", 0.5)
    with archive(responses) as peer, pytest.raises(Retry, match=r"still sending when our limit of .* h passed: "):
        here.fetch(peer)
    assert here.stored() >= 1


@pytest.mark.parametrize(
    ("seconds", "last", "said"),
    [
        (0.6, standard.PENDING, r"was still sending when our limit of .* h passed: 2 images sent, 0 failed; fetching"),
        (0.0, standard.CANCEL, "cancelled the retrieval: 1 image sent, 0 failed"),
    ],
)
def test_a_c_move_that_does_not_reach_its_end_says_why(
    seconds: float, last: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer sends an image, waits, and sends a second or cancels."""

    def responses(_event: evt.Event) -> Responses:
        yield "127.0.0.1", ports[0]
        yield 3
        yield standard.PENDING, image(1)
        time.sleep(seconds)
        yield last, image(2) if last == standard.PENDING else None
        time.sleep(seconds)
        yield standard.PENDING, image(3)

    monkeypatch.setattr(retrieval, "_LONGEST_SECONDS", 0.5)
    ports = [free_port(), free_port()]
    ae = AE(ae_title="ARCHIVE")
    ae.add_supported_context(StudyRootMove)
    ae.add_supported_context(MRImageStorage)
    ae.add_requested_context(MRImageStorage)
    handlers = [[(evt.EVT_C_STORE, lambda _event: standard.SUCCESS)], [(evt.EVT_C_MOVE, responses)]]
    servers = [
        ae.start_server(("127.0.0.1", port), block=False, evt_handlers=of)
        for port, of in zip(ports, handlers, strict=True)
    ]
    try:
        peer = PeerSection(ae_title="ARCHIVE", host="127.0.0.1", port=ports[1], timeout_seconds=20)
        with pytest.raises(Retry, match=f"ARCHIVE {said}"):
            fetch_study(peer, "AI_WORKER", STUDY, None)
    finally:
        for server in reversed(servers):
            server.shutdown()


def test_killed_between_two_images_it_is_closed_as_lost_and_completed_by_a_second_fetch(here: Here) -> None:
    def responses(_event: evt.Event) -> Responses:
        yield 2
        yield standard.PENDING, image(1)
        yield standard.PENDING, image(2)

    def killed() -> None:
        again = Here(Database(str(here.database.engine.url)), here.folder)

        def die(_fetched: Fetched) -> None:  # the first response comes after the first image
            os.kill(os.getpid(), signal.SIGKILL)

        fetch_study(peer, "AI_WORKER", STUDY, again.store, die)

    with archive(responses) as peer:
        assert in_child(killed) == -signal.SIGKILL
        assert here.ends() == [None]
        assert close_dead_associations(here.settings, here.database, later(1), here.events.append) == 1
        assert here.ends() == [AssociationEnd.LOST]
        assert here.stored() >= 1
        assert here.fetch(peer) == (2, 0)
    assert here.stored() == 2
    remove_leftovers(here.folder)


def test_series_wait_for_a_command_that_fetches_as_long_as_it_lives(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen from another host, which knows of processes their heartbeats only."""
    lease = timedelta(seconds=here.settings.worker.lease_seconds)
    seen: list[tuple[bool, dict[str, int], list[str]]] = []

    def look() -> None:
        now, name = datetime.now(UTC), process_name()
        with here.database.read() as session, monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "another host")
            living = list_processes(session, now, lease)
            names = [process.name for process in living]
            broken = broken_transfers(session, session.scalars(select(SeriesRow.id)).one(), names)
            seen.append((is_lost(session, name, now, lease), broken, [process.role for process in living]))

    def responses(_event: evt.Event) -> Responses:
        yield 2
        yield standard.PENDING, image(1)
        look()
        yield standard.PENDING, image(2)

    with archive(responses) as peer:
        config = tmp_path / "config.toml"
        address = f'host = "127.0.0.1"\nport = {peer.port}\nfetch_by = "get"'
        config.write_text(
            f'[worker]\ndata_dir = "{tmp_path / "var"}"\n[database]\nurl = "{here.database.engine.url}"\n'
            f'[receive]\nminimum_free_bytes = 0\n[[peer]]\nae_title = "ARCHIVE"\n{address}\n'
        )
        run = command(config, monkeypatch, capsys)
        assert run("fetch", "--from", "ARCHIVE", "--study", STUDY) == (0, f"{STUDY}: 2 images stored, 0 failed\n", "")
    look()
    assert seen == [(False, {}, [FETCH]), (True, {}, [])]


def test_a_peer_that_will_not_store_over_our_association(here: Here) -> None:
    def responses(_event: evt.Event) -> Responses:
        yield 0

    with archive(responses, syntaxes=[]) as peer, pytest.raises(Retry, match="sends nothing over an association"):
        here.fetch(peer)
    ae = AE(ae_title="ARCHIVE")
    ae.add_supported_context("1.2.840.10008.5.1.4.1.1.4", scu_role=True, scp_role=True)
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False)
    try:
        peer = PeerSection(ae_title="ARCHIVE", host="127.0.0.1", port=port)
        with pytest.raises(Retry, match="does not support retrieval by C-GET"):
            here.fetch(peer)
    finally:
        server.shutdown()
    assert here.ends() == []


@pytest.mark.skipif(not dcmtk.installed("dcmqrscp"), reason="DCMTK's dcmqrscp is not installed")
def test_dcmtk_sends_what_fits_the_first_context(here: Here, tmp_path: Path) -> None:
    folder, port = tmp_path / "db", free_port()
    folder.mkdir()
    paths = [*write_series(tmp_path / "images", 2), write_compressed(tmp_path / "images" / "rle.dcm", 3)]
    for path in paths:
        (folder / path.name).write_bytes(path.read_bytes())
    dcmtk.run("dcmqridx", folder, *(folder / path.name for path in paths))
    configuration = tmp_path / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 4\nHostTable BEGIN\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nARCHIVE {folder} R (9, 1024mb) ANY\nAETable END\n"
    )
    server = subprocess.Popen(
        [dcmtk.command("dcmqrscp"), "-c", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port, server)
        peer = PeerSection(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout_seconds=20)
        # It sends every file over the first context of its class, for which it decodes no pixels.
        assert here.fetch(peer) == (2, 1)
    finally:
        server.kill()
        server.wait(20)
    assert here.stored() == 2
