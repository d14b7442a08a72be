"""Stored times after the clock was set, on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.operating.clock_changes import reset_future_times
from worker.db.results import NewObject, add_result
from worker.db.series import queue_series
from worker.db.tables import DeliveryRow, JobRow, JobState, ObjectKind, SeriesRow, StudyRow


def _job_and_delivery(database: Database, at: datetime) -> None:
    """A series with a done job and its delivery, another with a pending job, a third that is open."""
    with database.write() as session:
        model = model_row(session, MODEL, at).id
        for name in "abc":
            add_instance(session, new_instance(1, name), at)
        for number in (1, 2):
            series = session.get_one(SeriesRow, number)
            job = queue_series(session, series, model, at)
            assert job is not None
            if number == 1:
                made = NewObject(ObjectKind.REPORT, "1.2", "1.3", "objects/a", "00" * 32)
                claim_job(session, "host:1", model, at, timedelta(seconds=30))
                end_job(session, job.id, "host:1", JobState.DONE, at)
                result: Any = classified()
                add_result(session, job, result, {}, [made], ["pacs"], at)


def test_future_times_are_reset_to_now(database: Database) -> None:
    _job_and_delivery(database, later(3600))
    with database.write() as session:
        session.execute(update(StudyRow).values(not_before=later(3600)))
        reset_future_times(session, later(0))
    with database.read() as session:
        assert set(session.scalars(select(StudyRow.not_before))) == {later(0)}
        assert session.scalars(select(JobRow.not_before).where(JobRow.state == JobState.PENDING)).one() == later(0)
        assert session.scalars(select(DeliveryRow.not_before)).one() == later(0)
        assert session.get_one(SeriesRow, 3).last_received_at == later(0)


def test_waits_that_the_worker_makes_are_retained(database: Database) -> None:
    _job_and_delivery(database, later(0))
    with database.write() as session:
        held = claim_job(session, "host:1", 1, later(1), timedelta(minutes=10))
        assert held is not None
        reset_future_times(session, later(1))
    with database.read() as session:
        assert session.get_one(JobRow, held.id).lease_until == later(601)
        assert session.get_one(SeriesRow, 3).last_received_at == later(0)
