from __future__ import annotations

from dataclasses import replace

from tests.testbed.instances import classified, later, new_instance
from tests.testbed.rows import add_series, claimed_job, queued_job
from worker.db.engine import Database
from worker.db.instances import add_instance, instances_of
from worker.db.jobs import end_job
from worker.db.results import NewObject, add_result
from worker.db.tables import JobState, ObjectKind, SeriesStatus
from worker.db.views.series_detail import (
    LatestReport,
    ShownSlice,
    find_report,
    find_series_detail,
    latest_slices,
)
from worker.dicom.standard import derive_uid
from worker.results import Activation

UID = derive_uid("series", "a")
MAP = Activation(rows=((0, 255),), top=0.1, left=0.2, height=0.3, width=0.4)


def test_the_slices_of_a_result_with_position_and_map(database: Database) -> None:
    new = [new_instance(number) for number in (1, 2)]
    with database.write() as session:
        rows = [add_instance(session, instance, later(0)) for instance in new]
        job = claimed_job(session, rows[0].series_id)
        result = classified(new)
        slices = (replace(result.slices[0], position_mm=5.0, activation=MAP), replace(result.slices[1], deciding=False))
        objects = [NewObject(ObjectKind.PICTURE, "1.2", "1.2.3", "objects/picture", "00" * 32)]
        end_job(session, job.id, "me", JobState.DONE, later(1))
        ids = {row.sop_instance_uid: row.id for row in rows}
        add_result(session, job, replace(result, slices=slices), ids, objects, [], later(1))
        rows[1].removed_at = later(2)
    with database.read() as session:
        detail = find_series_detail(session, UID)
        answers = latest_slices(session, UID)
    assert detail is not None
    assert (detail.picture, detail.open_job) == ("objects/picture", None)
    first, second = detail.slices
    assert (first.file, first.position_mm, first.probabilities[0], first.deciding) == (
        "instances/a/1.dcm",
        5.0,
        0.9,
        True,
    )
    assert first.activation is not None
    assert (first.activation.top, list(map(tuple, first.activation.rows))) == (0.1, [(0, 255)])
    assert (second.file, second.activation, second.deciding) == (None, None, False)
    assert [(answer.ordinal, answer.deciding) for answer in answers] == [(0, True), (1, False)]


def test_the_images_of_a_series_without_a_result(database: Database) -> None:
    attributes = {"frames": 2}
    with database.write() as session:
        row = add_instance(session, new_instance(1, attributes=attributes), later(0))
        add_instance(session, new_instance(2), later(0))
        job = queued_job(session, row.series_id)
    with database.read() as session:
        detail = find_series_detail(session, UID)
        assert latest_slices(session, UID) == []
        assert len(instances_of(session, row.series_id)) == 2
    assert detail is not None
    assert detail.open_job == (job.id, "pending")
    assert detail.slices == (
        ShownSlice("instances/a/1.dcm", 1),
        ShownSlice("instances/a/1.dcm", 2),
        ShownSlice("instances/a/2.dcm", None),
    )


def test_the_report_that_answers_a_series(database: Database) -> None:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    add_series(database, "b", SeriesStatus.FAILED)
    with database.read() as session:
        assert find_report(session, UID) == LatestReport("objects/a", derive_uid("study", "a"))
        assert find_report(session, derive_uid("series", "b")) == LatestReport(None, derive_uid("study", "b"))


def test_what_was_not_received_has_no_details(database: Database) -> None:
    with database.read() as session:
        assert find_series_detail(session, "1.2.3") is None
        assert find_report(session, "1.2.3") is None
        assert latest_slices(session, "1.2.3") == []
