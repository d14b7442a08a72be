from __future__ import annotations

import pytest

from tests.testbed.instances import later
from tests.testbed.rows import add_series, queued_job
from worker.db.engine import Database
from worker.db.tables import DeliveryState, JobState, SeriesStatus
from worker.db.views.queue import find_unfinished, unfinished_deliveries, unfinished_jobs
from worker.dicom.standard import derive_uid


@pytest.fixture
def filled(database: Database) -> Database:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    add_series(database, "b", SeriesStatus.CLASSIFIED)
    add_series(database, "c", SeriesStatus.FAILED)
    series_id = add_series(database, "d", SeriesStatus.PENDING)
    with database.write() as session:
        queued_job(session, series_id, 5)
    return database


def test_unfinished_lists_jobs_and_deliveries(filled: Database) -> None:
    with filled.read() as session:
        unfinished = find_unfinished(session)
    assert [(job.state, job.reason) for job in unfinished.jobs] == [("parked", "process-died"), ("pending", None)]
    assert unfinished.jobs[1].series_instance_uid == derive_uid("series", "d")
    assert unfinished.jobs[1].not_before == later(5)
    assert [(delivery.destination, delivery.state) for delivery in unfinished.deliveries] == [("pacs", "pending")] * 2
    assert [delivery.object for delivery in unfinished.deliveries] == ["report", "report"]


def test_pages_and_states(filled: Database) -> None:
    with filled.read() as session:
        assert [job.number for job in unfinished_jobs(session, JobState.PENDING)] == [4]
        assert [job.number for job in unfinished_jobs(session, after=3)] == [4]
        assert [job.number for job in unfinished_jobs(session, limit=1)] == [3]
        assert unfinished_deliveries(session, DeliveryState.FAILED) == []
        assert [delivery.number for delivery in unfinished_deliveries(session, after=1)] == [2]
        assert [delivery.number for delivery in unfinished_deliveries(session, limit=1)] == [1]
