from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.testbed.instances import CONTENT, MODEL, NOON, new_instance
from worker.audit.messages import AuditEvent, EventOutcome
from worker.db.engine import Database
from worker.db.instances import StoredFile, add_instance, file_fault_counts, file_of
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import FileFault, FileFaultRow, InstanceRow, JobRow, JobState
from worker.storage import integrity as integrity_module
from worker.storage.integrity import FaultyFile, Integrity, fault_of, read_to_compare

CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(database: Database, tmp_path: Path) -> StoredFile:
    """A stored file that is whole."""
    with database.write() as session:
        file = file_of(add_instance(session, new_instance(), NOON))
    path = tmp_path / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return file


@pytest.fixture
def audited() -> list[AuditEvent]:
    return []


@pytest.fixture
def integrity(database: Database, tmp_path: Path, audited: list[AuditEvent]) -> Integrity:
    return Integrity(database, tmp_path, lambda: NOON, audited.append)


def _faults(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {row.path: row.fault for row in session.scalars(select(FileFaultRow))}


def test_a_file_is_compared_by_size_then_by_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert fault_of(path, CONTENT_SHA256) is FileFault.MISSING
    assert fault_of(path / "below", CONTENT_SHA256) is FileFault.MISSING
    path.write_bytes(CONTENT)
    assert fault_of(path, CONTENT_SHA256, len(CONTENT)) is None
    assert fault_of(path, CONTENT_SHA256) is None
    assert fault_of(path, "00" * 32, len(CONTENT)) is FileFault.DAMAGED
    path.write_bytes(bytes(3 << 20))
    assert fault_of(path, CONTENT_SHA256, len(CONTENT)) is FileFault.DAMAGED
    assert list(read_to_compare(path, CONTENT_SHA256, len(CONTENT))) == []  # its size says enough
    assert list(read_to_compare(path, CONTENT_SHA256)) == [1 << 20] * 3
    assert fault_of(tmp_path, CONTENT_SHA256) is FileFault.DAMAGED


def test_a_fault_is_recorded_once_and_forgotten_when_the_file_is_whole(
    database: Database, integrity: Integrity, file: StoredFile, tmp_path: Path, audited: list[AuditEvent]
) -> None:
    assert integrity.check([file]) == {}
    (tmp_path / file.path).write_bytes(b"y")
    for _ in range(2):
        assert integrity.check([file]) == {file.path: FileFault.DAMAGED}
    assert _faults(database) == {file.path: "damaged"}
    assert [event.outcome for event in audited] == [EventOutcome.SERIOUS_FAILURE]
    with pytest.raises(FaultyFile) as fault:
        integrity.require([file])
    assert fault.value.reason == "file-damaged"
    (tmp_path / file.path).unlink()
    with pytest.raises(FaultyFile) as fault:
        integrity.require([file])
    assert fault.value.reason == "file-missing"
    (tmp_path / file.path).write_bytes(CONTENT)
    integrity.require([file])
    assert _faults(database) == {}


def test_what_retention_deleted_meanwhile_is_no_fault(
    database: Database, integrity: Integrity, file: StoredFile, tmp_path: Path
) -> None:
    (tmp_path / file.path).unlink()
    with database.write() as session:
        session.get_one(InstanceRow, file.id).removed_at = NOON
    integrity.check([file])
    with database.read() as session:
        assert file_fault_counts(session) == {FileFault.DAMAGED: 0, FileFault.MISSING: 0}


def test_a_file_that_has_not_changed_is_compared_once_for_a_viewer(
    integrity: Integrity, file: StoredFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    real = Integrity._fault

    def count(self: Integrity, file: StoredFile) -> FileFault | None:
        compared.append(file.path)
        return real(self, file)

    monkeypatch.setattr(Integrity, "_fault", count)
    for _ in range(100):
        assert integrity.path(file) == tmp_path / file.path
    assert len(compared) == 1
    (tmp_path / file.path).write_bytes(b"y")
    os.utime(tmp_path / file.path, ns=(1, 1))
    for _ in range(2):
        with pytest.raises(FaultyFile):
            integrity.path(file)


def test_no_more_files_are_remembered_than_some(
    database: Database, integrity: Integrity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity_module, "_TRUSTED_FILES", 2)
    with database.write() as session:
        files = [file_of(add_instance(session, new_instance(number), NOON)) for number in range(1, 5)]
    for file in files:
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_bytes(CONTENT)
        integrity.path(file)
    assert len(integrity._trusted) == 2


def test_a_file_that_is_whole_again_resumes_the_job_that_it_had_parked(
    database: Database, integrity: Integrity, file: StoredFile, tmp_path: Path
) -> None:
    """Whoever restored it, and without `worker jobs retry`."""
    with database.write() as session:
        series = lock_open_series(session, session.get_one(InstanceRow, file.id).series_id, NOON)
        assert series is not None
        job = queue_series(session, series, model_row(session, MODEL, NOON).id, NOON)
        assert job is not None
        assert claim_job(session, "me", job.model_id, NOON, timedelta(seconds=30)) is not None
        end_job(session, job.id, "me", JobState.PARKED, NOON, reason="file-damaged")
    (tmp_path / file.path).write_bytes(b"y")
    integrity.check([file])
    with database.read() as session:
        assert session.scalars(select(JobRow.state)).one() == JobState.PARKED
    (tmp_path / file.path).write_bytes(CONTENT)
    integrity.check([file])
    with database.read() as session:
        assert session.scalars(select(JobRow.state)).one() == JobState.PENDING
