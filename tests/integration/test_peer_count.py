"""A sender is asked how many images a series has: Orthanc, and peers that do not say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import select

from tests.testbed import orthanc
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.instances import MODEL, Clock, new_instance, write_series
from tests.testbed.orthanc import Orthanc
from tests.testbed.pacs import Pacs
from tests.testbed.waiting import wait_until
from worker.config.sections import PeerSection, ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_instance, close_association, open_association
from worker.db.models import model_row
from worker.db.tables import JobRow, SeriesRow, SeriesState, StudyCountRow
from worker.ops.doctor import _peer
from worker.receive.peer_count import count_series
from worker.receive.settle import settle_series
from worker.receive.storage_scp import Receiver
from worker.send.study_counts import count_studies
from worker.service.receive_ticks import start_receive_ticks


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    yield database
    database.close()


def _settings(tmp_path: Path, peer_port: int, port: int, **receive: Any) -> Settings:
    peer = PeerSection(ae_title="ORTHANC", host="127.0.0.1", port=peer_port, query=True, timeout_seconds=20)
    values = {"host": "127.0.0.1", "port": port, "minimum_free_bytes": 0, "quiet_seconds": 600} | receive
    return Settings(worker=WorkerSection(data_dir=tmp_path), receive=ReceiveSection(**values), peer=(peer,))


def _series(database: Database) -> SeriesRow:
    with database.read() as session:
        return session.scalars(select(SeriesRow)).one()


@pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")
def test_orthanc_is_asked_and_a_count_that_is_reached_settles_at_once(database: Database, tmp_path: Path) -> None:
    port = free_port()
    paths = write_series(tmp_path / "series", 5)
    uid = dcmread(paths[0]).SeriesInstanceUID
    with orthanc.running(tmp_path / "orthanc", port) as archive:
        settings = _settings(tmp_path, archive.port, port, settle_on_count=True)
        receiver = Receiver(settings, database, lambda: datetime.now(UTC))
        receiver.start()
        try:
            archive.upload(paths[:3])
            archive.send_series(uid)
            archive.upload(paths[3:])  # as a modality does that goes on sending to its PACS
        finally:
            receiver.stop(5)
        with database.write() as session:
            model_row(session, MODEL, datetime.now(UTC))
        clock = Clock()
        clock.ahead = timedelta(seconds=5)
        assert settle_series(database, settings, clock()) == 0
        assert count_series(database, settings, settings.peer[0], clock) == 1
        assert _series(database).expected_instances == 5
        assert _peer(settings, settings.peer[0]).well
        assert settle_series(database, settings, clock()) == 0
        _lose(archive, uid, paths)
        clock.ahead = timedelta(seconds=30)
        ticks = start_receive_ticks(settings, database, clock)
        # Long before the quiet time is over.
        wait_until(lambda: _series(database).state != SeriesState.OPEN, "the series to settle", 60, every=0.1)
        ticks.shutdown(wait=True)
    assert _series(database).expected_instances == 3
    assert _series(database).state == SeriesState.QUEUED
    with database.read() as session:
        [job] = session.scalars(select(JobRow))
    assert job.missing is None


@pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")
def test_orthanc_is_asked_for_the_series_of_a_study_and_its_reports_are_not_awaited(
    database: Database, tmp_path: Path
) -> None:
    """First it has a series more; then all series are here, and a report besides, which the worker is not sent."""
    port, study = free_port(), "1.2.840.99.1"
    first, second = (write_series(tmp_path / name, 3, name, StudyInstanceUID=study, PatientID="P") for name in "ab")
    report = write_series(tmp_path / "report", 1, "sr", StudyInstanceUID=study, PatientID="P", Modality="SR")
    with orthanc.running(tmp_path / "orthanc", port) as archive:
        settings = _settings(tmp_path, archive.port, port, quiet_seconds=1, incomplete_seconds=0, idle_seconds=2)
        receiver = Receiver(settings, database, lambda: datetime.now(UTC))
        receiver.start()
        archive.upload([*first, *second])
        with database.write() as session:
            model_row(session, MODEL, datetime.now(UTC))
        clock = Clock()
        counts = []
        for paths in (first, second):
            archive.send_series(dcmread(paths[0]).SeriesInstanceUID)
            clock.ahead += timedelta(seconds=5)
            assert settle_series(database, settings, clock()) == 1
            assert count_studies(database, settings, settings.peer[0], clock) == 1
            with database.read() as session:
                row = session.scalars(select(StudyCountRow)).one()
                counts.append((row.series, row.lacking_series, row.lacking_instances))
            archive.upload(report)
        receiver.stop(5)
    assert counts == [(2, 1, 3), (2, 0, 0)]


def _lose(archive: Orthanc, series_instance_uid: str, paths: list[Path]) -> None:
    """Leave Orthanc the first three images of the series."""
    archive.delete_study(dcmread(paths[0]).StudyInstanceUID)
    archive.upload(paths[:3])


def test_a_peer_that_is_away_or_cannot_be_asked_changes_nothing(database: Database, tmp_path: Path) -> None:
    clock = Clock()
    with database.write() as session:
        model_row(session, MODEL, clock())
        association = open_association(session, "ORTHANC", "127.0.0.1", "host:1", clock())
        for number in (1, 2, 3):
            add_instance(session, new_instance(number, association_id=association), clock())
        close_association(session, association, clock())
    away = _settings(tmp_path, free_port(), free_port(), quiet_seconds=1000)
    clock.ahead = timedelta(seconds=3)
    assert count_series(database, away, away.peer[0], clock) == 1
    assert (_series(database).expected_instances, _series(database).counted_at is None) == (None, False)
    with Pacs(ae_title="ORTHANC") as pacs:  # knows C-ECHO and C-STORE only
        stores_only = _settings(tmp_path, pacs.port, free_port(), quiet_seconds=1000)
        with database.write() as session:
            add_instance(session, new_instance(4), clock())
        clock.ahead = timedelta(seconds=6)
        assert count_series(database, stores_only, stores_only.peer[0], clock) == 1
        assert "does not support Study Root queries" in _peer(stores_only, stores_only.peer[0]).detail
    assert "does not answer at" in _peer(away, away.peer[0]).detail
    assert settle_series(database, away, clock()) == 0
    clock.ahead = timedelta(seconds=1100)
    assert settle_series(database, away, clock()) == 1  # by silence, as without a peer
    assert _series(database).state == SeriesState.QUEUED
