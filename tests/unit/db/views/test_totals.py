"""Totals for GET /metrics: right, and as fast with a million rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from tests.testbed.databases import make_tables
from tests.testbed.instances import MODEL, later, new_instance
from tests.testbed.rows import add_series, queued_job
from tests.testbed.studies import classify, receive
from worker.db.deliveries import claim_deliveries, end_delivery
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.studies.answering import add_study_result, study_inputs
from worker.db.tables import Commitment, DeliveryState, SeriesStatus, StudyRow
from worker.db.views import totals
from worker.db.views.totals import RunningTotals
from worker.inference.study.fusion import EQUAL_WEIGHTS, fuse
from worker.results import SeriesAnswer


def _fill(database: Database) -> None:
    outcomes = (SeriesStatus.CLASSIFIED, SeriesStatus.REFUSED, SeriesStatus.FAILED, SeriesStatus.PENDING)
    for number, outcome in enumerate(outcomes):
        add_series(database, "abcd"[number], outcome, number * 60)


def test_finished_rows_are_the_difference(database: Database) -> None:
    _fill(database)
    with database.write() as session:
        [(delivery, _)] = claim_deliveries(session, "pacs", "me", later(10), later(20) - later(10))
        arrived: dict[str, Any] = {"state": DeliveryState.DELIVERED, "commitment": Commitment.DUE}
        end_delivery(session, delivery.id, "me", arrived)
    with database.read() as session:
        numbers = RunningTotals().read(session)
    assert numbers.deliveries["pacs"].states == {
        "pending": 0,
        "sending": 0,
        "failed": 0,
        "superseded": 0,
        "delivered": 1,
    }
    assert numbers.deliveries["pacs"].commitments == {"due": 1, "requested": 0}
    assert numbers.deliveries["pacs"].oldest is None
    assert numbers.jobs == {"pending": 0, "running": 0, "parked": 1, "superseded": 0, "done": 1}
    assert numbers.studies == {"open": 4, "parked": 0, "answered": 0}


def test_rows_are_counted_once_however_often_it_reads(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "_NEWEST", 2)
    running = RunningTotals()
    for number in range(1, 14):
        with database.write() as session:
            add_instance(session, new_instance(number), later(number))
        if number % 3 == 1:
            with database.read() as session:
                assert running.read(session).instances_received == number


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[tuple[Database, list[tuple[str, Any]]]]:
    """A filled database, and every statement that it executes."""
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    _fill(database)
    statements: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_others: Any) -> None:
        statements.append((statement, parameters))

    yield database, statements
    database.close()


def test_no_table_is_scanned(traced: tuple[Database, list[tuple[str, Any]]]) -> None:
    """Except the few models, and a bounded number of open studies; so it takes as long with a million series."""
    database, statements = traced
    with database.read() as session:
        RunningTotals().read(session)
        plans = [
            row.detail
            for statement, parameters in [executed for executed in statements if executed[0].startswith("SELECT")]
            for row in session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert {step for step in plans if "SCAN" in step} <= {"SCAN model", "SCAN anon_1"}
    assert any("ix_series_status_reason" in step for step in plans)
    assert any("ix_delivery_destination_commitment" in step for step in plans)


def test_series_and_results_by_their_outcome(database: Database) -> None:
    _fill(database)
    with database.read() as session:
        numbers = RunningTotals().read(session)
    assert (numbers.instances_received, numbers.series_received) == (4, 4)
    assert numbers.series == {"pending": 1, "failed": 1, "refused": 1, "answered": 1}
    assert numbers.refused == {"modality": 1}
    assert numbers.oldest_series == later(180)
    assert numbers.oldest_job is None
    assert numbers.results == {("test-model 1.0", "glioma"): 1}
    assert numbers.not_assessed == {}
    assert numbers.deliveries["pacs"].oldest == later(0)


def test_answers_for_studies_and_the_study_that_waits_longest(database: Database) -> None:
    classify(database, "a", seconds=5)
    with database.write() as session:
        study = session.scalars(select(StudyRow)).one()
        said = SeriesAnswer("1.2", 1, "T1", "axial", "glioma", None, 0.9, {"glioma": 0.9, "notumor": 0.1})
        answer = fuse([said], MODEL, EQUAL_WEIGHTS)
        inputs = study_inputs(session, study.study_instance_uid)
        assert add_study_result(session, study.id, inputs, 1, answer, later(9)) is not None
    classify(database, "b", seconds=20, study_instance_uid="1.2.3")
    waiting = receive(database, "c", seconds=30, study_instance_uid="1.2.4")
    with database.write() as session:
        queued_job(session, waiting, 40, urgent=True)
    with database.read() as session:
        numbers = RunningTotals().read(session)
    assert numbers.studies == {"open": 2, "parked": 0, "answered": 1}
    assert (numbers.oldest_study, numbers.oldest_urgent_job) == (later(20), later(40))
    assert numbers.study_results == {("test-model 1.0", "glioma"): 1}
    assert (numbers.studies_without, numbers.contradictions) == ({}, 0)
