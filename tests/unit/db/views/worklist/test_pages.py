"""Pages of the worklist, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.testbed.instances import later
from tests.testbed.rows import add_series
from tests.testbed.studies import STUDY, classify, receive, refuse
from tests.unit.jobs.test_studies import SERVED, runner
from worker.db.engine import Database
from worker.db.results import NewObject
from worker.db.studies.answering import StudySettling, add_study_result, claim_study, study_inputs
from worker.db.tables import ObjectKind, ReadState, SeriesStatus
from worker.db.views.search import Search
from worker.db.views.worklist import matching
from worker.db.views.worklist.pages import Delivered, find_study_page, next_study, study_position
from worker.dicom.standard import derive_uid
from worker.jobs.studies import answer_study


def test_a_study_is_listed_with_its_answer_and_its_series(database: Database, tmp_path: Path) -> None:
    classify(database, "a", 0.9)
    refuse(database, "knee", "body-part", 1)
    runner(database, tmp_path).run_next(SERVED)
    receive(database, "late", seconds=90)
    with database.read() as session:
        [study] = find_study_page(session, Search(), 50).studies
    assert (study.study_instance_uid, study.patient_name, study.accession_number) == (STUDY, "Family^Given", "A")
    assert (study.status, study.label, study.probability, study.is_open) == ("classified", "glioma", 0.9, False)
    assert (study.received_at, study.reading, study.read_as) == (later(0), "unread", None)
    assert [(series.status, series.label, series.reason, series.instances) for series in study.series] == [
        ("classified", "glioma", None, 1),
        ("refused", None, "body-part", 1),
        ("pending", None, None, 1),
    ]


def test_deliveries_are_counted_and_the_reason_is_that_of_the_only_series(database: Database) -> None:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    add_series(database, "b", SeriesStatus.REFUSED, 60)
    with database.write() as session:
        study = claim_study(session, "me", later(99), StudySettling(timedelta()), timedelta(seconds=30))
        assert study is not None
        inputs = study_inputs(session, study.study_instance_uid)
        result = answer_study(inputs, 1, SERVED[1], {})
        report = NewObject(ObjectKind.REPORT, "1.2", derive_uid("report of the study"), "objects/s", "00" * 32)
        add_study_result(session, study.id, inputs, 1, result, later(99), [report], ["pacs", "research"])
    with database.read() as session:
        refused, classified = find_study_page(session, Search(), 50).studies
    assert (classified.delivered, refused.delivered) == (Delivered(3, 0, 0), Delivered())
    assert (refused.reason, refused.detail) == ("modality", "modality CT")


def test_pages_and_neighbours_follow_the_list(database: Database) -> None:
    for number, name in enumerate("abcde"):
        add_series(database, name, SeriesStatus.REFUSED, 60 * number)
    uids = [derive_uid("study", name) for name in "edcba"]
    with database.read() as session:
        first = find_study_page(session, Search(), 2)
        second = find_study_page(session, Search(older_than=first.older_than), 2)
        third = find_study_page(session, Search(older_than=second.older_than), 2)
        back = find_study_page(session, Search(newer_than=second.newer_than), 2)
        position = study_position(session, uids[2])
        assert position == second.studies[0].position
        assert next_study(session, Search(older_than=position)) == uids[3]
        assert next_study(session, Search(newer_than=position)) == uids[1]
        assert next_study(session, replace(Search(older_than=position), status=SeriesStatus.FAILED)) is None
        assert study_position(session, "1.2.3") is None
    assert [study.study_instance_uid for study in (*first.studies, *second.studies, *third.studies)] == uids
    assert back == replace(first, newer_than=None)
    assert (first.newer_than, third.older_than) == (None, None)


@pytest.mark.parametrize(
    ("search", "index"),
    [
        (Search(), "received_at"),
        (Search(minimum_probability=0.5), "received_at"),
        (Search(text="f"), "received_at"),
        (Search(status=SeriesStatus.REFUSED), "status"),
        (Search(label="glioma", status=SeriesStatus.CLASSIFIED, reading=ReadState.UNREAD), "label"),
        (Search(reading=ReadState.UNREAD, answered=True), "read_state"),
    ],
)
def test_a_page_is_taken_from_an_index_in_its_order(
    database: Database, monkeypatch: pytest.MonkeyPatch, search: Search, index: str
) -> None:
    if database.engine.dialect.name != "sqlite":
        pytest.skip("another planner, which has statistics")
    monkeypatch.setattr(matching, "FEW", 0)
    add_series(database, "a", SeriesStatus.REFUSED)
    executed: list[tuple[str, object]] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: executed.append((call[2], call[3])))
    with database.read() as session:
        next_study(session, search)
    [(statement, values)] = [call for call in executed if "ORDER BY" in call[0]]
    with database.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]  # type: ignore[arg-type]
    assert any(f"INDEX ix_study_{index}" in step for step in plan), plan
    assert not [step for step in plan if "TEMP B-TREE" in step], plan
