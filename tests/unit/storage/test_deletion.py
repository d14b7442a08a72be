"""A study is deleted with everything that was made of it, and nothing of another; on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from tests.testbed.instances import later, new_instance
from tests.testbed.rows import add_series
from tests.testbed.studies import STUDY, classify, refuse, report_study
from worker.audit.messages import AuditEvent
from worker.config.sections import WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_file_fault, file_of
from worker.db.operating.deleting import StudyInUse
from worker.db.studies.counting import StudyCount, record_study_count
from worker.db.studies.readings import NewStudyReading, add_study_reading, study_to_read
from worker.db.tables import (
    Base,
    DeliveryRow,
    FileFault,
    InstanceRow,
    JobRow,
    JobState,
    ReadingRow,
    ResultRow,
    SeriesRow,
    SeriesState,
    SeriesStatus,
    ShadowResultRow,
    SliceResultRow,
    StudyRow,
)
from worker.db.versions.conflicts import add_conflict
from worker.db.versions.corrections import correct_instances
from worker.storage.deletion import DeletedStudy, delete_study


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(worker=WorkerSection(data_dir=tmp_path))


def _counts(database: Database) -> dict[str, int]:
    with database.read() as session:
        tables = Base.metadata.sorted_tables
        return {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def _fill_study(database: Database, folder: Path) -> None:
    """Two classified series, one refused, with a report, readings, a correction, a conflict and a faulty file."""
    classify(database, "first")
    classify(database, "second")
    refuse(database, "third", "body-part")
    report_study(database)
    with database.write() as session:
        to_read = study_to_read(session, STUDY)
        assert to_read is not None
        add_study_reading(session, to_read, NewStudyReading("glioma", "a", "", to_read.result_id, 0), later(70))
        record_study_count(session, STUDY, "PACS", later(70), StudyCount(1, 0, 0))
        rows = session.scalars(select(InstanceRow).order_by(InstanceRow.id.desc()).limit(3)).all()
        add_conflict(session, rows[0], new_instance(1, "third", sha256="11" * 32), "conflicts/x", later(70))
        add_file_fault(session, file_of(rows[1]), FileFault.DAMAGED, later(70))
        result = session.scalars(select(ResultRow).order_by(ResultRow.id.desc())).first()
        assert result is not None
        session.add(
            SliceResultRow(
                result_id=result.id, ordinal=0, instance_id=rows[1].id, probabilities=[1.0], in_distribution=True,
                deciding=True,
            )
        )  # fmt: skip
        session.add(
            ReadingRow(
                series_id=result.series_id, number=9, label="x", slices=[0], comment="", reader="a",
                created_at=later(70),
            )
        )  # fmt: skip
        session.add(ShadowResultRow(job_id=result.job_id, status="classified", probabilities={}, created_at=later(70)))
        values = {"study_instance_uid": STUDY, "patient_id": "ID", "patient_name": "Family^Given"}
        changed = new_instance(1, "third", **values, accession_number="A", sha256="22" * 32, path="instances/changed")
        correct_instances(session, [(rows[0], changed)], later(71))
        session.execute(update(SeriesRow).values(state=SeriesState.REFUSED))
        session.execute(update(StudyRow).values(lease_owner=None, not_before=None))
        paths = [*session.scalars(select(InstanceRow.path)), "conflicts/x", "objects/s"]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"content")


def test_everything_of_the_study_goes_and_another_stays(database: Database, settings: Settings, tmp_path: Path) -> None:
    events: list[AuditEvent] = []
    _fill_study(database, tmp_path)
    _add_other(database, tmp_path)
    deleted = delete_study(database, settings, STUDY, "somebody", "10.0.0.1", events.append)
    assert deleted is not None
    assert (deleted.study_instance_uid, deleted.instances) == (STUDY, 3)
    left = _counts(database)
    files = {path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("worker.db")}
    assert files == {"other"}
    [event] = events
    assert event.id.meaning == "DICOM Study Deleted"
    assert [subject.id for subject in event.subjects] == [STUDY, "ID"]
    assert delete_study(database, settings, STUDY, "somebody") is None
    other = _only_other(tmp_path)
    assert {name: number for name, number in left.items() if number} == other


def _add_other(database: Database, folder: Path) -> None:
    add_series(database, "other", SeriesStatus.CLASSIFIED, 80)
    with database.read() as session:
        [path] = session.scalars(select(InstanceRow.path).join(SeriesRow).where(SeriesRow.patient_id == "ID-other"))
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(b"content")
    (folder / path).rename(folder / "other")


def _only_other(folder: Path) -> dict[str, int]:
    """The rows of a database that never had the study."""
    from tests.testbed.databases import make_tables

    database = Database(f"sqlite:///{folder / 'other.db'}")
    make_tables(database)
    add_series(database, "other", SeriesStatus.CLASSIFIED, 80)
    counts = {name: number for name, number in _counts(database).items() if number}
    database.close()
    return counts


@pytest.mark.parametrize(
    ("table", "values", "words"),
    [
        (SeriesRow, {"state": SeriesState.OPEN}, "are being received"),
        (JobRow, {"state": JobState.RUNNING, "lease_owner": "me"}, "is being classified"),
        (StudyRow, {"state": "open", "lease_owner": "me"}, "is being answered"),
        (DeliveryRow, {"state": "sending", "lease_owner": "me"}, "is being sent"),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_is_worked_on_is_not_deleted(
    database: Database, settings: Settings, table: Any, values: dict[str, Any], words: str
) -> None:
    classify(database, "first")
    report_study(database)
    before = _counts(database)
    with database.write() as session:
        session.execute(update(table).values(**values))
    with pytest.raises(StudyInUse, match=words):
        delete_study(database, settings, STUDY, "somebody")
    assert _counts(database) == before


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_after_a_crash_the_same_command_completes_it(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import worker.storage.deletion as deletion

    classify(database, "first")
    with database.write() as session:
        queued = session.scalars(select(SeriesRow)).one()
        assert queued.state == SeriesState.QUEUED
        file = settings.worker.data_dir / session.scalars(select(InstanceRow.path)).one()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"content")
    complete = deletion.fsync

    def die(*_arguments: Any) -> None:  # the files are gone, nothing is committed
        raise KeyboardInterrupt

    monkeypatch.setattr(deletion, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        delete_study(database, settings, STUDY, "somebody")
    assert not file.exists()
    monkeypatch.setattr(deletion, "fsync", complete)
    assert delete_study(database, settings, STUDY, "somebody") == DeletedStudy(STUDY, 1, 1)
