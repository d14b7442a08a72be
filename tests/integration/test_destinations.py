"""A new kind of destination is one file in `worker.send.destinations`: here it comes, and everything knows it."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from sqlalchemy import select

from tests.testbed.command import Run, command
from tests.testbed.filled import served
from tests.testbed.instances import Clock
from worker.config.settings import Settings, load_settings
from worker.db.engine import Database
from worker.db.tables import DeliveryRow, DeliveryState
from worker.errors import StartError
from worker.ops.doctor import _destination
from worker.send import destinations
from worker.send.destinations import destinations_of, kinds
from worker.send.sender import Sender
from worker.web.app import create_app

KIND = '''
"""A destination that is a folder: every object becomes a file in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from worker.config.paths import ConfigPath
from worker.errors import Retry
from worker.send.destinations.base import Connection, Description, Destination


@dataclass(frozen=True)
class OpenFolder:
    path: Path

    def store(self, ds: Any) -> tuple[int, str]:
        ds.save_as(self.path / f"{ds.SOPInstanceUID}.dcm")
        return 0, str(ds.SOPInstanceUID)

    def close(self) -> None: ...


class FolderDestination(Destination):
    """One [[destination]] with a `folder`."""

    folder: ConfigPath

    @classmethod
    def claims(cls, table: Mapping[str, Any]) -> bool:
        return "folder" in table

    @property
    def store_seconds(self) -> float:
        return 10.0

    def open(self, ae_title: str) -> Connection:
        self.probe(ae_title)
        return OpenFolder(self.folder)

    def probe(self, ae_title: str) -> None:
        if not self.folder.is_dir():
            raise Retry("folder-missing", f"{self.name}: there is no folder {self.folder}")

    def describe(self) -> Description:
        return Description("files", str(self.folder), "localhost", f"{self.folder} is there", "make the folder")
'''


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a worker in whose package the one new file lies, and which sends to such a destination."""
    package = tmp_path / "destinations"
    package.mkdir()
    (package / "folder.py").write_text(KIND)
    monkeypatch.setattr(destinations, "__path__", [*destinations.__path__, str(package)])
    monkeypatch.delitem(sys.modules, "worker.send.destinations.folder", raising=False)
    file = tmp_path / "config.toml"
    file.write_text(
        '[database]\nurl = "sqlite:///worker.db"\n[worker]\ndata_dir = "."\n[web]\nrequire_token = false\n'
        '[[destination]]\nname = "pacs"\nfolder = "out"\n'
    )
    return file


@pytest.fixture
def settings(config: Path) -> Settings:
    return load_settings(config, kinds())


@pytest.fixture
def worker(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command(config, monkeypatch, capsys)


def test_its_keys_are_read_and_checked_like_those_of_every_kind(config: Path, settings: Settings) -> None:
    [destination] = destinations_of(settings)
    assert type(destination).__name__ == "FolderDestination"
    assert destination.describe().address == str(config.parent / "out")  # relative to the file of the configuration
    config.write_text('[[destination]]\nname = "pacs"\nfolder = "out"\nfoldr = 1')
    with pytest.raises(StartError, match=r"unknown key 'destination.0.foldr' \(did you mean 'folder'\?\)"):
        load_settings(config, kinds())


def test_the_sender_delivers_to_it_when_it_is_there(
    database: Database, settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    [destination] = destinations_of(settings)
    sender = Sender(destination, "AI_WORKER", database, tmp_path, clock)
    assert sender.send_due() == 2
    with database.read() as session:
        rows = session.execute(select(DeliveryRow.state, DeliveryRow.reason)).all()
    assert {tuple(row) for row in rows} == {(DeliveryState.PENDING, "folder-missing")}
    (tmp_path / "out").mkdir()
    clock.ahead += timedelta(minutes=11)
    assert sender.send_due() == 2
    with database.read() as session:
        assert set(session.scalars(select(DeliveryRow.state))) == {DeliveryState.DELIVERED}
    sent = {ds.SOPInstanceUID: ds for ds in map(dcmread, (tmp_path / "objects").rglob("*.dcm"))}
    arrived = {ds.SOPInstanceUID: ds for ds in map(dcmread, (tmp_path / "out").iterdir())}
    assert arrived == sent


def test_echo_and_doctor_probe_it(worker: Run, settings: Settings, tmp_path: Path) -> None:
    [destination] = destinations_of(settings)
    assert worker("echo", "pacs") == (1, "", f"worker: pacs: there is no folder {tmp_path / 'out'}\n")
    assert _destination(settings, destination).advice == "make the folder"
    (tmp_path / "out").mkdir()
    assert worker("echo", "pacs") == (0, f"pacs: {tmp_path / 'out'} is there\n", "")
    assert _destination(settings, destination).well


def test_the_page_and_the_interface_describe_and_probe_it(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    application = create_app(settings, database)
    with served(application) as address, httpx.Client(base_url=address) as client:
        described = {"name": "pacs", "protocol": "files", "ae_title": None, "address": str(tmp_path / "out")}
        assert client.get("/api/v1/destinations").json() == [described]
        assert str(tmp_path / "out") in client.get("/peers").text
        away = client.post("/api/v1/destinations/pacs/echo").json()
        assert (away["answers"], away["reason"]) == (False, "folder-missing")
        (tmp_path / "out").mkdir()
        assert client.post("/api/v1/destinations/pacs/echo").json()["answers"] is True


def test_only_a_destination_by_c_store_can_be_pushed_to(worker: Run, tmp_path: Path) -> None:
    code, _, error = worker("push", str(tmp_path), "--to", "pacs")
    assert code == 2
    assert "C-STORE" in error
