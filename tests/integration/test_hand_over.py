"""A study is handed over: to Orthanc with storage commitment; a node that refuses, or a kill, loses nothing of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage
from sqlalchemy import delete, func, select, update

from tests.testbed import orthanc
from tests.testbed.child import in_child
from tests.testbed.command import command
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.instances import later, mr_instance, received, write_compressed
from tests.testbed.pacs import Behaviour, Pacs
from tests.testbed.waiting import wait_until
from tests.testbed.web_site import API, bearer, serving
from worker.audit.messages import AuditEvent
from worker.config.settings import Settings, with_kinds
from worker.db.engine import Database
from worker.db.operating.deleting import StudyInUse
from worker.db.tables import ConflictRow, HandOverRow, InstanceRow, SeriesRow, SeriesState, TokenRole
from worker.errors import Retry, StartError
from worker.receive.storage_scp import Receiver
from worker.send import hand_over
from worker.send.destinations import kinds
from worker.send.hand_over import HandOver, NotTaken
from worker.storage import deletion
from worker.storage.acceptance import request_of_file
from worker.storage.integrity import FaultyFile
from worker.storage.store import InstanceStore, Transfer

STUDY = str(mr_instance(1).StudyInstanceUID)


class Here:
    """A worker's data folder with a study of three images, one of them compressed, which has settled."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        values = {
            "worker": {"data_dir": folder / "var"},
            "database": {"url": f"sqlite:///{folder / 'worker.db'}"},
            "receive": {"host": "127.0.0.1", "port": free_port(), "minimum_free_bytes": 0},
        }
        self.settings: Settings = with_kinds(kinds())(**values | settings)
        self.database = Database(self.settings.database.url)
        make_tables(self.database)
        self.events: list[AuditEvent] = []
        self.store(received(mr_instance(1)), received(mr_instance(2)))
        self.store(request_of_file(write_compressed(folder / "rle.dcm", 3).read_bytes()))
        self.settle()

    def store(self, *requests: Any) -> None:
        store = InstanceStore(self.settings, self.database, lambda: later(0), lambda _event: None)
        transfer = Transfer(store, "PACS", "127.0.0.1")
        assert [transfer.answer(request) for request in requests] == [0] * len(requests)
        store.close()

    def settle(self) -> None:
        with self.database.write() as session:
            session.execute(update(SeriesRow).values(state=SeriesState.REFUSED))

    def run(self, to: str, days: int = 0, **options: Any) -> tuple[int, int] | None:
        """How many instances were sent, and deleted."""
        handing = HandOver(
            self.settings, self.database, lambda: later(0) + timedelta(days), self.events.append, "somebody", "10.0.0.1"
        )
        done = handing.run(STUDY, to, **options)
        return None if done is None else (done.sent, done.deleted.instances)

    def held(self) -> tuple[int, int]:
        """How many instances have rows, and files."""
        with self.database.read() as session:
            rows = session.scalar(select(func.count()).select_from(InstanceRow)) or 0
        return rows, len(list((self.folder / "var" / "instances").rglob("*.dcm")))

    def rows(self) -> list[HandOverRow]:
        with self.database.read() as session:
            return list(session.scalars(select(HandOverRow)))

    def told(self) -> list[str]:
        return [event.id.meaning for event in self.events]


def peer_of(pacs: Pacs) -> dict[str, Any]:
    return {"peer": [{"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}]}


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as pacs:
        yield pacs


@pytest.fixture
def here(tmp_path: Path, pacs: Pacs) -> Iterator[Here]:
    here = Here(tmp_path, **peer_of(pacs))
    yield here
    here.database.close()


@pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")
def test_orthanc_commits_to_all_of_it_and_ours_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    with orthanc.running(tmp_path / "orthanc", port) as archive:
        destination = {"name": "archive", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": archive.port}
        here = Here(
            tmp_path,
            receive={"host": "127.0.0.1", "port": port, "minimum_free_bytes": 0},
            destination=[{**destination, "storage_commitment": True, "timeout_seconds": 30}],
        )
        receiver = Receiver(here.settings, here.database, lambda: later(0))
        receiver.start()  # Orthanc reports over an association of its own
        try:
            lines: list[tuple[int, int]] = []
            assert here.run("archive", steps=lambda done, total: lines.append((done, total))) == (3, 3)
        finally:
            receiver.stop(1)
        assert lines == [(1, 3), (2, 3), (3, 3)]
        found = archive.instances(StudyInstanceUID=STUDY)
        assert {tags["SOPInstanceUID"] for tags in found} == {
            str(mr_instance(number).SOPInstanceUID) for number in (1, 2, 3)
        }
    assert here.held() == (0, 0)
    assert here.rows() == []
    security, sent, *_ = here.told()
    assert (security, sent) == ("Security Alert", "DICOM Instances Transferred")
    assert here.told()[2:] == ["Security Alert", "DICOM Study Deleted"]
    assert here.run("archive") is None
    here.database.close()
    config = tmp_path / "config.toml"
    config.write_text(f'[worker]\ndata_dir = "var"\n[database]\nurl = "sqlite:///{tmp_path}/worker.db"\n')
    run = command(config, monkeypatch, capsys)
    assert run("studies", "hand-over", STUDY, "--to", "archive", "--yes")[0] == 2  # not of this configuration


def test_one_instance_is_refused_and_nothing_is_deleted_until_it_is_taken(
    here: Here, pacs: Pacs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = mr_instance(4, "b", SOPClassUID=SecondaryCaptureImageStorage, StudyInstanceUID=STUDY, PatientID="ID-a")
    here.store(received(other))
    here.settle()
    pacs.stop()
    pacs.accept_sop_classes = {MRImageStorage}
    pacs.start()
    # What it takes arrives in Explicit VR; it supports no compressed transfer syntax either.
    with pytest.raises(NotTaken, match=r"took 2 of 4 .* nothing was deleted: .*Secondary Capture"):
        here.run("PACS")
    assert here.held() == (4, 4)
    assert here.told() == ["Security Alert", "DICOM Instances Transferred", "Security Alert"]
    with pytest.raises(StartError, match="neither"):
        here.run("NOBODY")
    for taken in (Behaviour.REFUSE, Behaviour.ABORT):
        pacs.behaviour = taken
        with pytest.raises(NotTaken, match="took 0 of 4"):
            here.run("PACS")
    pacs.behaviour, pacs.status = Behaviour.REFUSE, 0xB000  # a warning: it changed what it took
    with pytest.raises(NotTaken, match="took 0 of 4"):
        here.run("PACS")
    pacs.stop()
    with pytest.raises(Retry, match="connection refused"):
        here.run("PACS")
    assert here.held() == (4, 4)
    (here.folder / "config.toml").write_text(
        f'[worker]\ndata_dir = "var"\n[database]\nurl = "{here.settings.database.url}"\n'
        f'[[peer]]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
    )
    run = command(here.folder / "config.toml", monkeypatch, capsys)
    code, out, err = run("studies", "hand-over", STUDY, "--to", "PACS", "--yes")
    assert (code, out) == (1, "")
    assert "connection refused" in err
    assert run("studies", "hand-over", "1.2.3", "--to", "PACS", "--yes")[0] == 1


def test_a_study_that_gets_an_image_meanwhile_is_not_deleted(here: Here) -> None:
    only_plain(here)

    def another(done: int, _total: int) -> None:
        if done == 1:
            here.store(received(mr_instance(9)))
            here.settle()

    with pytest.raises(StudyInUse, match="came or changed meanwhile"):
        here.run("PACS", steps=another)
    assert here.held() == (3, 3)
    assert here.run("PACS") == (3, 3)
    assert here.held() == (0, 0)


@pytest.mark.parametrize("where", ["before-deleting", "files-gone"])
def test_killed_it_is_completed_by_the_same_command(
    here: Here, pacs: Pacs, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    only_plain(here)

    def die(*_arguments: Any, **_options: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    dies = (hand_over, "delete_study") if where == "before-deleting" else (deletion, "fsync")

    def killed() -> None:
        monkeypatch.setattr(*dies, die)
        here.database = Database(here.settings.database.url)
        here.run("PACS")

    assert in_child(killed) == -signal.SIGKILL
    assert here.held() == (2, 2 if where == "before-deleting" else 0)
    [row] = here.rows()
    assert row.taken_at is not None
    pacs.stop()  # nothing is sent any more
    if where == "before-deleting":  # after days the other node may have lost it, and we still have it
        with pytest.raises(Retry, match="connection refused"):
            here.run("PACS", days=2)
        assert here.held() == (2, 2)
    assert here.run("PACS", days=0 if where == "before-deleting" else 2) == (0, 2)
    assert here.held() == (0, 0)
    assert here.rows() == []
    assert len(pacs.stored) == 2


def test_by_rest_as_by_command_with_the_same_audit(here: Here, pacs: Pacs) -> None:
    path = f"{API}/studies/{STUDY}/hand-over"
    settings = here.settings.model_copy(update={"web": here.settings.web.model_copy(update={"require_token": True})})
    with serving(settings, here.events.append) as (client, database):
        client.headers.update(bearer(database, TokenRole.OPERATE, "archivist"))

        def ended() -> dict[str, Any] | None:
            answer = client.get(path).json()
            return answer if answer["state"] != "running" else None

        # The stand-in PACS takes the two plain images and not the compressed one.
        assert client.post(path, json={"to": "PACS"}).status_code == 202
        refused = wait_until(ended, "the end")
        assert (refused["state"], refused["reason"], refused["sent"], refused["total"]) == ("failed", "not-taken", 3, 3)
        assert "took 2 of 3 instances; nothing was deleted" in refused["detail"]
        assert here.held() == (3, 3)
        only_plain(here)
        del here.events[:]
        begun = client.post(path, json={"to": "PACS"})
        assert (begun.status_code, begun.json()["to"], begun.json()["by"]) == (202, "PACS", "archivist")
        done = wait_until(ended, "the end")
        assert (done["state"], done["reason"], done["sent"], done["total"]) == ("done", None, 2, 2)
        assert done["detail"] == "2 images deleted here"
        assert client.post(path, json={"to": "PACS"}).status_code == 404
        assert client.get(path).json() == done
    assert here.held() == (0, 0)
    assert len(pacs.stored) == 2
    by_rest, here.events = here.events, []
    here.store(received(mr_instance(1)), received(mr_instance(2)))
    here.settle()
    assert here.run("PACS") == (2, 2)  # the call of `worker studies hand-over`
    assert [_audited(event, "archivist") for event in by_rest] == [_audited(event, "somebody") for event in here.events]


def _audited(event: AuditEvent, operator: str) -> str:
    """An audit event without the operator, from whom and when."""
    words = str(replace(event, participants=()))
    named = [replace(who, address=None) for who in event.participants]
    return f"{words} {named}".replace(operator, "OPERATOR")


def test_what_is_damaged_deleted_or_undecided_is_not_handed_over(here: Here, pacs: Pacs) -> None:
    [*files] = (here.folder / "var" / "instances").rglob("*.dcm")
    whole = files[0].read_bytes()
    files[0].write_bytes(b"x" * len(whole))
    with pytest.raises(FaultyFile):
        here.run("PACS")
    files[0].write_bytes(whole)
    with here.database.write() as session:
        session.execute(update(InstanceRow).where(InstanceRow.id == 1).values(removed_at=later(1)))
    with pytest.raises(NotTaken, match="retention has deleted 1"):
        here.run("PACS")
    with here.database.write() as session:
        session.execute(update(InstanceRow).values(removed_at=None))
    changed = mr_instance(1, PixelData=bytes(range(256)) * 2)
    store = InstanceStore(here.settings, here.database, lambda: later(0), lambda _event: None)
    assert Transfer(store, "PACS", "127.0.0.1").answer(received(changed)) == 0xB000
    store.close()
    here.settle()
    with pytest.raises(StudyInUse, match="waits for a decision"):
        here.run("PACS")
    assert pacs.stored == {}
    assert here.held()[0] == 3
    with here.database.write() as session:
        session.execute(delete(ConflictRow))
        session.execute(delete(InstanceRow))
    with pytest.raises(NotTaken, match="no images"):
        here.run("PACS")


def test_it_is_not_handed_over_to_ourselves(tmp_path: Path) -> None:
    port = free_port()
    here = Here(
        tmp_path,
        receive={"host": "127.0.0.1", "port": port, "minimum_free_bytes": 0},
        peer=[
            {"ae_title": "AI_WORKER", "host": "192.0.2.1", "port": 104},
            {"ae_title": "ALIAS", "host": "localhost", "port": port},
        ],
    )
    for name in ("AI_WORKER", "ALIAS"):
        with pytest.raises(StartError, match="this worker"):
            here.run(name)
    here.database.close()


def only_plain(here: Here) -> None:
    """Without the compressed image, which the stand-in PACS does not take."""
    with here.database.write() as session:
        row = session.scalars(select(InstanceRow).where(InstanceRow.id == 3)).one()
        (here.folder / "var" / row.path).unlink()
        session.delete(row)
