"""The objects of a study, of rows and files: once for each answer, with the same bytes at every attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select, update

from tests.testbed.answered import answer
from tests.unit.jobs.test_studies import SERVED, Died
from worker.config.sections import Level
from worker.db.engine import Database
from worker.db.jobs import release_leases_of
from worker.db.studies.answering import StudySettling
from worker.db.tables import (
    DeliveryRow,
    InstanceRow,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    StudyResultRow,
    StudyRow,
)
from worker.dicom.standard import derive_uid
from worker.jobs import study_objects
from worker.jobs.studies import StudyRunner
from worker.jobs.study_objects import StudyObjects
from worker.reporting.outbox import Outbox
from worker.results import Activation
from worker.storage.integrity import Integrity

STUDY = derive_uid("study", "of objects")
OF_STUDY: dict[str, Any] = {"StudyInstanceUID": STUDY, "PatientID": "ID", "PatientName": "Family^Given"}
MAP = Activation(((0, 128), (255, 0)), 0.0, 0.0, 1.0, 1.0)


def series(database: Database, folder: Path, name: str, number: int, label: str = "glioma", **changes: Any) -> None:
    """A series of the study that is classified and stored."""
    probabilities = (0.9, 0.1) if label == "glioma" else (0.1, 0.9)
    of_series = {"SeriesNumber": number, "SeriesDescription": f"AX {name}", **OF_STUDY, **changes}
    activation = MAP if label == "glioma" else None
    answer(
        database, folder, name, 3, destinations=(), label=label, probabilities=probabilities, activation=activation,
        **of_series,
    )  # fmt: skip


def runner(
    database: Database, folder: Path, level: Level = "study", owner: str = "host:1", minutes: float = 1, **outbox: Any
) -> StudyRunner:
    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(minutes=minutes)

    objects = StudyObjects(
        database,
        folder,
        Outbox(folder, pictures_to=("pacs",), level=level, **outbox),
        Integrity(database, folder, clock),
        ("pacs", "fhir"),
    )
    seconds = timedelta(seconds=5)
    settling = StudySettling(seconds)
    return StudyRunner(database, folder, owner, clock, lease=seconds, settling=settling, attempts=3, objects=objects)


def made(database: Database, kind: ObjectKind = ObjectKind.REPORT) -> list[ObjectRow]:
    with database.read() as session:
        of_studies = select(ObjectRow).where(ObjectRow.study_result_id.is_not(None), ObjectRow.kind == kind)
        return list(session.scalars(of_studies.order_by(ObjectRow.id)))


def sent_to(database: Database, produced: ObjectRow) -> list[str]:
    with database.read() as session:
        return sorted(session.scalars(select(DeliveryRow.destination).where(DeliveryRow.object_id == produced.id)))


def reports(database: Database, folder: Path) -> list[Dataset]:
    return [dcmread(folder / row.path) for row in made(database)]


def texts(report: Dataset) -> list[str]:
    """The texts and the meanings of the codes of a report."""
    return [str(item.value) for item in report.iterall() if item.keyword in ("TextValue", "CodeMeaning")]


def test_one_report_and_one_picture_of_a_study(database: Database, tmp_path: Path) -> None:
    series(database, tmp_path, "T1 POST", 5)
    series(database, tmp_path, "FLAIR", 3)
    assert runner(database, tmp_path, key_objects_to=("pacs",)).run_next(SERVED)
    [report], [picture], [selection] = (made(database, kind) for kind in ObjectKind)
    assert [sent_to(database, row) for row in (report, picture, selection)] == [["fhir", "pacs"], ["pacs"], ["pacs"]]
    objects = [dcmread(tmp_path / row.path) for row in (report, picture, selection)]
    assert [ds.SeriesDescription for ds in objects] == [
        "AI brain MRI summary", "AI brain MRI summary, picture", "AI brain MRI summary, key images",
    ]  # fmt: skip
    assert [ds.SeriesNumber for ds in objects] == [1000000001, 1000000002, 1000000003]
    assert [(ds.StudyInstanceUID, ds.SOPInstanceUID, ds.SeriesInstanceUID) for ds in objects] == [
        (STUDY, row.sop_instance_uid, row.series_instance_uid) for row in (report, picture, selection)
    ]
    assert {str(ds.PatientName) for ds in objects} == {"Family^Given"}
    assert "series 3: AX FLAIR" in texts(objects[0])
    assert len(objects[1].SourceImageSequence) == 3
    assert [item.ValueType for item in objects[2].ContentSequence if "ReferencedSOPSequence" in item] == ["IMAGE"] * 3
    assert objects[1].DerivationCodeSequence[0].CodeMeaning == "Class activation"
    assert len({ds.SeriesInstanceUID for ds in objects}) == 3


def test_a_second_attempt_writes_the_same_bytes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(database, tmp_path, "a", 1)

    def dies(*arguments: Any) -> Any:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("worker.jobs.studies.add_study_result", dies)
        with pytest.raises(Died):
            runner(database, tmp_path).run_next(SERVED)
    files = {path: path.read_bytes() for path in (tmp_path / "objects").rglob("*.dcm")}
    with database.write() as session:
        release_leases_of(session, "host:1", datetime.now(UTC))
    assert runner(database, tmp_path, owner="host:2", minutes=2).run_next(SERVED)
    assert {path: path.read_bytes() for path in (tmp_path / "objects").rglob("*.dcm")} == files


@pytest.mark.parametrize("step", ["study_contents", "read_header", "stored_key_images"])
def test_dying_while_the_objects_are_made_loses_and_doubles_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    series(database, tmp_path, "a", 1)
    real: Callable[..., Any] = getattr(study_objects, step)

    def dies(*arguments: Any) -> Any:
        real(*arguments)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(study_objects, step, dies)
        with pytest.raises(Died):
            runner(database, tmp_path).run_next(SERVED)
    assert made(database) == []
    assert runner(database, tmp_path, owner="host:2", minutes=2).run_next(SERVED), "the lease is over"
    assert not runner(database, tmp_path, owner="host:2", minutes=3).run_next(SERVED)
    assert len(made(database)) == 1


def test_a_late_series_leads_to_one_revised_report(database: Database, tmp_path: Path) -> None:
    series(database, tmp_path, "a", 1)
    assert runner(database, tmp_path).run_next(SERVED)
    series(database, tmp_path, "late", 2)
    assert runner(database, tmp_path, minutes=2).run_next(SERVED)
    assert not runner(database, tmp_path, minutes=3).run_next(SERVED)
    first, second = reports(database, tmp_path)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    [study] = second.PredecessorDocumentsSequence
    [replaced] = study.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in replaced.ReferencedSOPSequence] == [first.SOPInstanceUID]
    assert ["series 2: AX late" in texts(report) for report in (first, second)] == [False, True]


def test_two_hosts_that_answer_the_same_study_queue_it_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(database, tmp_path, "a", 1)
    real = study_objects.study_contents

    def another(*arguments: Any) -> Any:
        monkeypatch.setattr(study_objects, "study_contents", real)
        assert runner(database, tmp_path, owner="another:1", minutes=2).run_next(SERVED), "the lease is over"
        return real(*arguments)

    monkeypatch.setattr(study_objects, "study_contents", another)
    assert runner(database, tmp_path).run_next(SERVED)
    assert [len(made(database, kind)) for kind in (ObjectKind.REPORT, ObjectKind.PICTURE)] == [1, 1]


@pytest.mark.parametrize(("level", "expected"), [("study", 1), ("both", 1), ("series", 0)])
def test_the_level_says_what_is_made_of_a_study(
    database: Database, tmp_path: Path, level: Level, expected: int
) -> None:
    series(database, tmp_path, "a", 1)
    assert runner(database, tmp_path, level).run_next(SERVED)
    assert len(made(database)) == expected


def test_no_object_mixes_patients(database: Database, tmp_path: Path) -> None:
    series(database, tmp_path, "a", 1)
    series(database, tmp_path, "b", 2, PatientID="ANOTHER")
    assert runner(database, tmp_path).run_next(SERVED)
    assert made(database) == []


@pytest.mark.parametrize(("reason", "not_assessed", "expected"), [
    ("too-few-slices", False, 0), ("too-few-slices", True, 1), ("out-of-distribution", False, 1),
])  # fmt: skip
def test_a_study_that_is_not_assessed_is_reported_where_that_is_of_interest(
    database: Database, tmp_path: Path, reason: str, not_assessed: bool, expected: int
) -> None:
    series(database, tmp_path, "a", 1)
    with database.write() as session:
        session.execute(update(ResultRow).values(status="not-assessed", label=None, probability=None, reason=reason))
        session.execute(update(SeriesRow).values(status="not-assessed", label=None, probability=None))
    assert runner(database, tmp_path, not_assessed=not_assessed).run_next(SERVED)
    assert len(made(database)) == expected


def test_where_no_lesion_was_found_there_is_no_map(database: Database, tmp_path: Path) -> None:
    series(database, tmp_path, "a", 1, "notumor")
    assert runner(database, tmp_path).run_next(SERVED)
    picture = dcmread(tmp_path / made(database, ObjectKind.PICTURE)[0].path)
    assert "DerivationCodeSequence" not in picture
    assert len(picture.SourceImageSequence) == 3


def test_files_that_retention_deleted_are_left_out_of_the_picture(database: Database, tmp_path: Path) -> None:
    series(database, tmp_path, "a", 1)
    assert runner(database, tmp_path).run_next(SERVED)
    with database.write() as session:
        session.execute(update(InstanceRow).values(removed_at=datetime.now(UTC)))
        session.execute(update(SeriesRow).values(corrections=1))  # something changed
        session.execute(update(StudyRow).values(state="open"))
    for path in (tmp_path / "instances").rglob("*.dcm"):
        path.unlink()
    assert runner(database, tmp_path, minutes=2).run_next(SERVED)
    assert [str(report.PatientName) for report in reports(database, tmp_path)] == ["Family^Given"] * 2
    picture = dcmread(tmp_path / made(database, ObjectKind.PICTURE)[1].path)
    assert "SourceImageSequence" not in picture


def test_a_damaged_file_parks_the_study(database: Database, tmp_path: Path) -> None:
    series(database, tmp_path, "a", 1)
    for path in (tmp_path / "instances").rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-2] + b"xx")
    assert runner(database, tmp_path).run_next(SERVED)
    with database.read() as session:
        study = session.scalars(select(StudyRow)).one()
        assert (study.state, study.reason) == ("parked", "file-damaged")
        assert session.scalars(select(StudyResultRow)).all() == []


def test_a_disagreement_shows_the_maps_of_the_series_that_found_a_lesion(database: Database, tmp_path: Path) -> None:
    series(database, tmp_path, "a", 1)
    series(database, tmp_path, "b", 2, "notumor")
    split = replace(SERVED[1], study=replace(SERVED[1].study, lesion_from=0.99, no_lesion_to=0.01))
    assert runner(database, tmp_path).run_next({1: split})
    picture = dcmread(tmp_path / made(database, ObjectKind.PICTURE)[0].path)
    assert picture.DerivationCodeSequence[0].CodeMeaning == "Class activation"
    assert {"Undetermined", "Glioma"} <= set(texts(reports(database, tmp_path)[0]))
