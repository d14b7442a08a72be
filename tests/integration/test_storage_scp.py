"""The Storage SCP on a real socket, with DCMTK and pynetdicom as peers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRBigEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from sqlalchemy import select

from tests.testbed import dcmtk
from tests.testbed.answered import answer
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.instances import encoded, mr_instance, write_series
from tests.testbed.raw_store import raw_store
from tests.testbed.waiting import wait_until
from worker.config.sections import ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationEnd, AssociationRow, InstanceRow
from worker.dicom import standard
from worker.errors import StartError
from worker.receive.storage_scp import Receiver
from worker.storage import associations


@dataclass
class Site:
    port: int
    database: Database
    data: Path

    def instances(self) -> list[InstanceRow]:
        with self.database.read() as session:
            return list(session.scalars(select(InstanceRow)))

    def associations(self) -> list[AssociationRow]:
        with self.database.read() as session:
            return list(session.scalars(select(AssociationRow)))


def _settings(tmp_path: Path, **receive: object) -> Settings:
    values = {"host": "127.0.0.1", "port": free_port(), "minimum_free_bytes": 0} | receive
    return Settings(worker=WorkerSection(data_dir=tmp_path / "data"), receive=ReceiveSection(**values))


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    settings = _settings(tmp_path, **getattr(request, "param", {}))
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    receiver = Receiver(settings, database, lambda: datetime.now(UTC))
    receiver.start()
    yield Site(settings.receive.port, database, settings.worker.data_dir)
    receiver.stop(1)
    database.close()


def _send(port: int, *files: bytes, calling: str = "PACS") -> list[int]:
    """Statuses of files sent over one association."""
    ae = AE(ae_title=calling)
    datasets = [dcmread(BytesIO(file)) for file in files]
    for ds in datasets:
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
    if not assoc.is_established:
        raise ConnectionError("no association")
    statuses = [int(assoc.send_c_store(ds).Status) for ds in datasets]
    assoc.release()
    return statuses


def test_every_storage_class_and_transfer_syntax_is_accepted(site: Site) -> None:
    for sop_class in standard.STORAGE_SOP_CLASSES:
        ae = AE(ae_title="PACS")
        for syntax in standard.TRANSFER_SYNTAXES:
            ae.add_requested_context(sop_class, syntax)
        assoc = ae.associate("127.0.0.1", site.port, ae_title="AI_WORKER")
        assert len(assoc.accepted_contexts) == len(standard.TRANSFER_SYNTAXES)
        assoc.release()


@pytest.mark.skipif(not dcmtk.installed(), reason="DCMTK is not installed")
def test_dcmtk_sends_a_whole_study_with_what_we_made_of_it(site: Site, tmp_path: Path) -> None:
    objects = answer(site.database, site.data, count=3, key_objects_to=("pacs",))
    study = [site.data / row.path for row in site.instances()] + [site.data / new.path for new in objects]
    foreign = dcmread(site.data / objects[0].path)
    foreign.SOPInstanceUID = foreign.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    foreign.SeriesInstanceUID, foreign.ManufacturerModelName = "1.2.4", "another"
    foreign.save_as(tmp_path / "foreign.dcm")
    said = dcmtk.storescu(site.port, [*study, tmp_path / "foreign.dcm"], "-R")  # proposes what they need
    assert said.count("Received Store Response (Success)") == 7
    assert [str(row.sop_class_uid) for row in site.instances()][3:] == [Comprehensive3DSRStorage]


@pytest.mark.skipif(not dcmtk.installed(), reason="DCMTK is not installed")
def test_dcmtk_echoes_and_stores(site: Site, tmp_path: Path) -> None:
    dcmtk.echoscu(site.port)
    paths = write_series(tmp_path / "series", 5)
    dcmtk.storescu(site.port, paths)
    assert len(site.instances()) == 5
    kept = {dcmread(site.data / row.path).SOPInstanceUID: site.data / row.path for row in site.instances()}
    for path in paths:
        assert dcmread(kept[dcmread(path).SOPInstanceUID]) == dcmread(path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_dataset_is_stored_in_the_transfer_syntax_it_came_in(site: Site, tmp_path: Path, syntax: str) -> None:
    ds = mr_instance()
    pixels = dcmread(BytesIO(encoded(ds))).pixel_array
    ds.PixelData = pixels.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    assert _send(site.port, buffer.getvalue()) == [standard.SUCCESS]
    [row] = site.instances()
    assert row.transfer_syntax_uid == syntax
    assert (dcmread(site.data / row.path).pixel_array == pixels).all()


def test_echo_leaves_no_association_row_and_a_store_leaves_a_closed_one(site: Site) -> None:
    ae = AE(ae_title="PACS")
    ae.add_requested_context("1.2.840.10008.1.1")
    assoc = ae.associate("127.0.0.1", site.port, ae_title="AI_WORKER")
    assert assoc.send_c_echo().Status == standard.SUCCESS
    assoc.release()
    assert site.associations() == []
    assert _send(site.port, encoded(mr_instance(1)), encoded(mr_instance(2))) == [0, 0]
    for _ in range(100):
        [row] = site.associations()
        if row.closed_at is not None:
            break
        time.sleep(0.05)
    assert row.closed_at is not None
    assert row.calling_ae_title == "PACS"


def test_an_end_that_could_not_be_recorded_is_recorded_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = []

    def fail_once(session: object, row: int, now: datetime, end: AssociationEnd) -> None:
        if not failures:
            failures.append(row)
            raise OSError("disk full")
        close(session, row, now, end)  # type: ignore[arg-type]

    close = associations.close_association
    monkeypatch.setattr(associations, "close_association", fail_once)
    assert _send(site.port, encoded(mr_instance())) == [standard.SUCCESS]
    wait_until(lambda: site.associations()[0].closed_at is not None, "the association's end", 10, every=0.05)
    assert site.associations()[0].closed_at is not None
    assert failures == [1]


def _raw(site: Site, content: bytes, uid: str = "1.2.3.4") -> int:
    return raw_store(site.port, MRImageStorage, uid, content)


def test_command_and_dataset_that_differ_are_0xa900(site: Site) -> None:
    dataset = encoded(mr_instance())
    start = dataset.index(b"\x08\x00")  # the first element of group 8: the dataset without preamble and meta
    assert _raw(site, dataset[start:]) == standard.DATASET_MISMATCH
    assert site.instances() == []


@pytest.mark.parametrize("content", [b"not dicom at all", b"\x08\x00\x18\x00UI\xff\xff1.2.3.4"])
def test_a_dataset_that_cannot_be_understood_is_a_failure_and_the_service_goes_on(site: Site, content: bytes) -> None:
    assert _raw(site, content) in (standard.CANNOT_UNDERSTAND, standard.DATASET_MISMATCH)
    assert site.instances() == []
    assert _send(site.port, encoded(mr_instance())) == [standard.SUCCESS]


@pytest.mark.parametrize("site", [{"minimum_free_bytes": 1 << 60}], indirect=True)
def test_a_full_disk_is_0xa700(site: Site) -> None:
    assert _send(site.port, encoded(mr_instance())) == [standard.OUT_OF_RESOURCES]
    assert site.instances() == []


def test_a_damaged_database_acknowledges_nothing(site: Site, tmp_path: Path) -> None:
    first, second = encoded(mr_instance(1)), encoded(mr_instance(2))
    assert _send(site.port, first) == [standard.SUCCESS]
    site.database.close()  # with the last connection the log of SQLite goes into the file
    file = tmp_path / "worker.db"
    file.write_bytes(b"\xff" * file.stat().st_size)
    assert _send(site.port, second, first) == 2 * [standard.PROCESSING_FAILURE]


def test_an_immutable_database_acknowledges_nothing_new_until_it_is_mutable_again(site: Site, tmp_path: Path) -> None:
    first, second = encoded(mr_instance(1)), encoded(mr_instance(2))
    assert _send(site.port, first) == [standard.SUCCESS]
    site.database.close()  # an open file could still be written
    with _immutable(tmp_path / "worker.db"):
        assert _send(site.port, second) == [standard.PROCESSING_FAILURE]
    site.database.close()  # a connection that could not write is not used again
    assert _send(site.port, second, first) == 2 * [standard.SUCCESS]
    assert len(site.instances()) == 2


@contextmanager
def _immutable(file: Path) -> Iterator[None]:
    """Skips where the file system or the user cannot."""
    if subprocess.run(["chattr", "+i", file], capture_output=True, check=False).returncode:
        pytest.skip("chattr +i takes root, and a file system that has it")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", file], check=True)


@pytest.mark.parametrize("site", [{"allowed_peers": ("PACS",)}], indirect=True)
def test_an_unknown_ae_title_gets_no_association(site: Site) -> None:
    with pytest.raises(ConnectionError):
        _send(site.port, encoded(mr_instance()), calling="STRANGER")
    assert _send(site.port, encoded(mr_instance())) == [standard.SUCCESS]


def test_a_port_in_use_is_one_line(site: Site, tmp_path: Path) -> None:
    other = Receiver(_settings(tmp_path, port=site.port), site.database, lambda: datetime.now(UTC))
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{site.port}"):
        other.start()
    other.stop(0)
