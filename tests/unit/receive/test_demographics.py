"""Images that name the patient otherwise than those before: the newest count, the trail has it; on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select

from tests.testbed.instances import MODEL, later, mr_instance, received
from worker.audit.messages import AuditEvent
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.models import model_row
from worker.db.studies.opening import open_studies
from worker.db.tables import JobRow, SeriesRow
from worker.db.views.studies import StudyAnswer, find_study
from worker.receive.settle import settle_series
from worker.storage.keeper import InstanceKeeper

STUDY = "1.2.840.99.5"


def instance(number: int, series: str = "a", **changes: Any) -> Dataset:
    same = {"StudyInstanceUID": STUDY, "PatientID": "P", "PatientName": "Old^A", "AccessionNumber": "A"}
    return mr_instance(number, series, **same | changes)


@pytest.fixture
def arrive(database: Database, tmp_path: Path) -> Any:
    """Keep images at a time and settle their series; the descriptions of the events that this recorded."""
    with database.write() as session:
        model_row(session, MODEL, later(0))
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}, "eligibility": {"minimum_slices": 1}})

    def run(seconds: float, *datasets: Dataset) -> list[AuditEvent]:
        keeper = InstanceKeeper(database, tmp_path, lambda: later(seconds), minimum_free_bytes=0)
        for ds in datasets:
            keeper.keep(received(ds))
        keeper.close()
        events: list[AuditEvent] = []
        assert settle_series(database, settings, later(seconds + 200), events.append) == 1
        return events

    return run


def names(database: Database) -> list[str]:
    with database.read() as session:
        return [row.patient_name for row in session.scalars(select(SeriesRow).order_by(SeriesRow.id))]


def shown(database: Database) -> StudyAnswer:
    with database.write() as session:
        open_studies(session, [STUDY])
        study = find_study(session, STUDY)
    assert study is not None
    return study


def test_a_later_image_of_a_series_renames_it_once(database: Database, arrive: Any) -> None:
    assert arrive(0, instance(1), instance(2)) == []
    [event] = arrive(1000, instance(3, PatientName="New^A"))
    assert event.subjects[0].id == STUDY
    assert "the newest count from now on" in str(event.description)
    assert names(database) == ["New^A"]
    assert arrive(2000, instance(4, PatientName="NEW^A ")) == [], "another spelling is no change"
    with database.read() as session:
        assert len(session.scalars(select(JobRow)).all()) == 3
    study = shown(database)
    assert (study.patient_name, study.attributes_changed_at) == ("New^A", later(1200))


def test_a_later_series_renames_the_study(database: Database, arrive: Any) -> None:
    arrive(0, instance(1))
    [event] = arrive(1000, instance(1, "b", PatientBirthDate="19800101", PatientName="New^A"))
    assert event.subjects[0].id == STUDY
    assert arrive(2000, instance(1, "c", PatientBirthDate="19800101", PatientName="New^A")) == []
    assert names(database) == ["Old^A", "New^A", "New^A"]
    study = shown(database)
    assert (study.patient_name, study.attributes_changed_at) == ("New^A", later(1200))


def test_an_image_whose_file_is_gone_renames_nothing(database: Database, arrive: Any, tmp_path: Path) -> None:
    arrive(0, instance(1))
    keeper = InstanceKeeper(database, tmp_path, lambda: later(1000), minimum_free_bytes=0)
    keeper.keep(received(instance(2, PatientName="New^A")))
    keeper.close()
    for file in tmp_path.rglob("*.dcm"):
        file.unlink()
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}})
    events: list[AuditEvent] = []
    settle_series(database, settings, later(1200), events.append)
    assert (names(database), events) == (["Old^A"], [])
