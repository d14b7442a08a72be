"""Studies are fetched from Orthanc: C-FIND, then C-MOVE to our Storage SCP or C-GET; by the command and on the page.

Peers that misbehave in a C-GET: tests/integration/test_fetch_by_get.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from sqlalchemy import func, select

from tests.testbed import orthanc
from tests.testbed.command import command
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.instances import mr_instance, write_compressed, write_series
from tests.testbed.receiver import receiving
from tests.testbed.waiting import wait_until
from tests.testbed.web_site import serving
from worker.config.sections import DatabaseSection, PeerSection, WebSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import InstanceRow
from worker.errors import Retry
from worker.fetch.queries import find_studies
from worker.fetch.retrieval import Fetched, fetch_study

pytestmark = pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")


@dataclass(frozen=True)
class Archive:
    """An Orthanc with a study of three images, one of them compressed, and our receiver, which it knows."""

    peer: PeerSection
    study: str
    accession: str
    database: Database

    def received(self) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(InstanceRow)) or 0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder, port = tmp_path_factory.mktemp("fetch"), free_port()
    with receiving(folder, port=port) as (_, database), orthanc.running(folder / "orthanc", port) as pacs:
        pacs.upload([*write_series(folder / "images", 2), write_compressed(folder / "images" / "rle.dcm", 3)])
        image = mr_instance(1)
        peer = PeerSection(ae_title="ORTHANC", host="127.0.0.1", port=pacs.port, timeout_seconds=30)
        yield Archive(peer, image.StudyInstanceUID, image.AccessionNumber, database)


def test_a_study_is_found_and_sent_to_us(archive: Archive) -> None:
    assert find_studies(archive.peer, "AI_WORKER", study_instance_uid=archive.study) == [archive.study]
    assert find_studies(archive.peer, "AI_WORKER", accession_number=archive.accession) == [archive.study]
    assert find_studies(archive.peer, "AI_WORKER", study_instance_uid="1.2.3") == []
    for wrong in ({"accession_number": "*"}, {"study_instance_uid": "1.2\\3"}, {}):
        with pytest.raises(ValueError, match=r"UID|wildcards"):
            find_studies(archive.peer, "AI_WORKER", **wrong)
    steps: list[Fetched] = []
    fetched = fetch_study(archive.peer, "AI_WORKER", archive.study, None, steps.append)
    assert (fetched.completed, fetched.failed) == (3, 0)
    assert steps[-1] == fetched
    wait_until(lambda: archive.received() == 3, 30)


def test_why_nothing_was_sent_says_what_to_do(archive: Archive) -> None:
    with pytest.raises(Retry, match="NOBODY"):
        fetch_study(archive.peer, "NOBODY", archive.study, None)
    away = archive.peer.model_copy(update={"port": free_port()})
    with pytest.raises(Retry, match="ORTHANC"):
        find_studies(away, "AI_WORKER", study_instance_uid=archive.study)


def test_by_the_command(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[[peer]]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {archive.peer.port}\ntimeout_seconds = 30\n'
    )
    run = command(config, monkeypatch, capsys)
    assert run("migrate")[0] == 0
    expected = f"{archive.study}: 3 images sent to AI_WORKER, 0 failed\n"
    assert run("fetch", "--from", "ORTHANC", "--study", archive.study) == (0, expected, "")
    # Into the data folder of this configuration, over our own association; again, it is a repetition.
    for _ in range(2):
        expected = f"{archive.study}: 3 images stored, 0 failed\n"
        assert run("fetch", "--from", "ORTHANC", "--study", archive.study, "--by", "get") == (0, expected, "")
    files = (tmp_path / "var" / "instances").rglob("*.dcm")
    expected_syntaxes = [RLELossless, ExplicitVRLittleEndian, ExplicitVRLittleEndian]  # none was transcoded
    assert sorted(read_file_meta_info(path).TransferSyntaxUID for path in files) == sorted(expected_syntaxes)
    assert run("fetch", "--from", "ORTHANC", "--study", "1.2.3") == (1, "", "worker: ORTHANC has no such study\n")
    assert run("fetch", "--from", "ORTHANC", "--accession", "A*")[0] == 2
    assert run("fetch", "--from", "ORTHANC")[2] == "worker: give --study or --accession\n"
    assert run("fetch", "--from", "PACS", "--study", "1")[2] == "worker: 'PACS' is not a [[peer]] (known: ORTHANC)\n"


def test_on_the_page(archive: Archive, tmp_path: Path) -> None:
    settings = Settings(
        worker=WorkerSection(data_dir=tmp_path),
        database=DatabaseSection(url=f"sqlite:///{tmp_path / 'worker.db'}"),
        web=WebSection(require_token=False),
        peer=(archive.peer,),
    )
    database = Database(settings.database.url)
    make_tables(database)
    database.close()
    with serving(settings) as (client, _):
        assert client.post("/fetch", data={"peer": "ORTHANC", "study": archive.study}).status_code == 303
        wait_until(lambda: '"status delivered">done' in client.get("/fetch").text, 60)
        page = client.get("/fetch").text
        assert f'href="/studies/{archive.study}"' in page
        assert '<td class="number">3</td>' in page
        assert client.post("/fetch", data={"peer": "ORTHANC", "study": archive.study, "by": "ftp"}).status_code == 422
        by_get = {"peer": "ORTHANC", "study": archive.study, "by": "get"}
        assert client.post("/fetch", data=by_get).status_code == 303
        wait_until(lambda: client.get("/fetch").text.count('"status delivered">done') == 2, 60)
        assert "C-GET</small>" in client.get("/fetch").text
        assert len(list((tmp_path / "instances").rglob("*.dcm"))) == 3
        assert client.post("/fetch", data={"peer": "ORTHANC", "accession": "<b>*"}).status_code == 303
        wait_until(lambda: "no wildcards" in client.get("/fetch").text, 60)
        assert "<b>*" not in client.get("/fetch").text
