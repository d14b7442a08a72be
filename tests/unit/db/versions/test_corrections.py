from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.db.engine import Database
from worker.db.instances import NewInstance, add_instance, input_sha256, instances_of
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import NewObject, add_result, lineage, reports_to_replace
from worker.db.series import lock_open_series, queue_series, refuse_series
from worker.db.tables import InstanceRow, JobRow, JobState, ObjectKind, SeriesRow
from worker.db.versions.corrections import (
    SUPERSEDED_REASON,
    correct_instances,
    earlier_versions,
    is_named,
    lock_instances,
)
from worker.dicom.standard import derive_uid, produced_series_uid


def _add(session: Session, count: int, series: str = "a") -> list[InstanceRow]:
    return [add_instance(session, new_instance(number, series), later(0)) for number in range(1, count + 1)]


def _other(number: int, content: str = "c", **changes: Any) -> NewInstance:
    values = {"sha256": content * 64, "path": f"instances/{content}/{number}", "patient_id": "R1"}
    return new_instance(number, **values | changes)


def _queue(session: Session, series_id: int, seconds: float) -> JobRow | None:
    series = lock_open_series(session, series_id, later(seconds))
    assert series is not None
    return queue_series(session, series, model_row(session, MODEL, later(0)).id, later(seconds))


def _report(session: Session, series_id: int, seconds: float) -> str:
    """Queue the series, and report on it; the path of the report."""
    queued = _queue(session, series_id, seconds)
    assert queued is not None
    job = claim_job(session, "me", queued.model_id, later(seconds), timedelta(seconds=30))
    assert job is not None
    assert job.id == queued.id
    end_job(session, job.id, "me", JobState.DONE, later(seconds))
    path = f"objects/{job.id}"
    made = NewObject(ObjectKind.REPORT, "1.2", derive_uid("report", str(job.id)), path, "00" * 32)
    add_result(session, job, classified(), {}, [made], [], later(seconds))
    return path


def _paths(session: Session, series_id: int) -> list[str]:
    return [report.path for report in reports_to_replace(session, series_id, 1)]


def test_unfinished_jobs_of_a_corrected_series_are_superseded(database: Database) -> None:
    for state in (JobState.PENDING, JobState.RUNNING, JobState.PARKED, JobState.DONE):
        with database.write() as session:
            [row] = _add(session, 1, series=state)
            job = _queue(session, row.series_id, 1)
            assert job is not None
            if state != JobState.PENDING:
                claim_job(session, "me", job.model_id, later(1), timedelta(seconds=30))
            if state in (JobState.PARKED, JobState.DONE):
                end_job(session, job.id, "me", state, later(1), reason="x")
            number, new = job.id, _other(1, series=state)
            correct_instances(session, [(row, new)], later(2))
        with database.write() as session:
            ended = session.get_one(JobRow, number)
            if state == JobState.DONE:
                assert ended.state == JobState.DONE
            else:
                assert (ended.state, ended.reason, ended.lease_owner) == ("superseded", SUPERSEDED_REASON, None)
                # What a process that still ran it has made of the earlier images is dropped.
                assert not end_job(session, number, "me", JobState.DONE, later(3))


def test_a_series_that_is_corrected_back_is_reported_again(database: Database) -> None:
    with database.write() as session:
        [row] = _add(session, 1)
        first = _report(session, row.series_id, 1)
        correct_instances(session, [(row, _other(1))], later(2))
        second = _report(session, row.series_id, 3)
        assert first != second
        correct_instances(session, [(row, new_instance(1))], later(4))
        assert input_sha256(instances_of(session, row.series_id)) == input_sha256([new_instance(1)])
        assert _paths(session, row.series_id) == [second]
        _report(session, row.series_id, 5)
        digests = session.scalars(select(JobRow.input_sha256)).all()
        assert len(set(digests)) == 3


def test_a_refused_series_opens(database: Database) -> None:
    with database.write() as session:
        [row] = _add(session, 1)
        series = lock_open_series(session, row.series_id, later(0))
        assert series is not None
        refuse_series(series, "mixed-patients", "x", later(1))
        correct_instances(session, [(row, _other(1))], later(2))
    with database.read() as session:
        series = session.get_one(SeriesRow, 1)
        assert (series.state, series.reason, series.status) == ("open", None, "pending")
        assert (series.patient_id, series.last_received_at) == ("R1", later(2))


def test_an_emptied_series_hands_its_report_on_once(database: Database) -> None:
    with database.write() as session:
        first, second = _add(session, 2)
        report = _report(session, first.series_id, 1)
        correct_instances(session, [(first, _other(1, series_instance_uid="1.2.9"))], later(2))
        other = first.series_id
        assert _paths(session, other) == []  # the first series has an image left, and revises its own report
        correct_instances(session, [(second, _other(2, "d", series_instance_uid="1.2.9"))], later(3))
        assert _paths(session, other) == [report]
        revised = _report(session, other, 4)
        assert _paths(session, other) == [revised]
        assert [row.id for row in instances_of(session, other)] == [1, 2]
        assert instances_of(session, 1) == []


def test_an_image_that_joins_others_does_not_name_their_patient(database: Database) -> None:
    with database.write() as session:
        _add(session, 2, "b")
        [row] = _add(session, 1)
        correct_instances(session, [(row, _other(1, series_instance_uid=derive_uid("series", "b")))], later(2))
        series = session.get_one(SeriesRow, row.series_id)
        session.refresh(series)
        assert (series.patient_id, series.corrections) == ("ID-b", 1)


def test_reports_of_a_corrected_study_lie_in_a_series_of_their_own(database: Database) -> None:
    uid = derive_uid("series", "a")
    with database.write() as session:
        [row] = _add(session, 1)
        assert lineage(session, row.series_id, 1).other_study is None
        correct_instances(session, [(row, _other(1, study_instance_uid="1.2.8"))], later(1))
        assert lineage(session, row.series_id, 1).other_study == "1.2.8"
        correct_instances(session, [(row, new_instance(1))], later(2))
        assert lineage(session, row.series_id, 1).other_study is None
    assert produced_series_uid("report", uid, "ab") != produced_series_uid("report", uid, "ab", "1.2.8")


def test_history_has_what_was_and_its_file_is_named(database: Database) -> None:
    with database.write() as session:
        [row] = _add(session, 1)
        path = row.path
        lock_instances(session, [row.id])
        correct_instances(session, [(row, _other(1))], later(2), "ada")
        [earlier] = earlier_versions(session, row.series_id)
        assert (earlier.path, earlier.replaced_by, earlier.replaced_at) == (path, "ada", later(2))
        assert earlier.attributes == new_instance(1).attributes
        assert is_named(session, row.id, path)
        assert is_named(session, row.id, "instances/c/1")
        earlier.removed_at = later(3)
        session.flush()
        assert not is_named(session, row.id, path)
        assert earlier_versions(session, row.series_id) == []
