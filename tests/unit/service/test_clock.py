from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance, close_association, open_association
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import queue_series
from worker.db.settling import Counting, series_to_settle
from worker.db.tables import DeliveryRow, JobRow, JobState, ObjectKind, SeriesRow
from worker.service import clock as clocks
from worker.service.clock import Clock, bring_back
from worker.service.schedule import tick_now


def _job_and_delivery(database: Database, at: datetime) -> None:
    """One series with a done job and its delivery, another with a pending job, a third that is open."""
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


def test_what_a_clock_that_was_set_back_left_ahead_is_due_now(database: Database) -> None:
    _job_and_delivery(database, later(3600))
    with database.write() as session:
        bring_back(session, later(0))
    with database.read() as session:
        assert session.scalars(select(JobRow.not_before).where(JobRow.state == JobState.PENDING)).one() == later(0)
        assert session.scalars(select(DeliveryRow.not_before)).one() == later(0)
        assert session.get_one(SeriesRow, 3).last_received_at == later(0)


def test_waits_as_long_as_the_worker_makes_them_are_kept(database: Database) -> None:
    _job_and_delivery(database, later(0))
    with database.write() as session:
        held = claim_job(session, "host:1", 1, later(1), timedelta(minutes=10))
        assert held is not None
        bring_back(session, later(1))
    with database.read() as session:
        assert session.get_one(JobRow, held.id).lease_until == later(601)
        assert session.get_one(SeriesRow, 3).last_received_at == later(0)


def test_the_database_is_the_referee_where_hosts_share_it(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = clocks._own_ahead()
    monkeypatch.setattr(clocks, "_own_ahead", lambda: true - 3600)
    database = Database(postgres_url)
    clock = Clock(database)
    clock._ask()
    database.close()
    assert abs(clock() - datetime.now(UTC)) < timedelta(minutes=10)


def test_ticks_go_on_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apscheduler.schedulers.background import BackgroundScheduler

    from worker.db.migrate import migrate

    scheduler = BackgroundScheduler(timezone="UTC")
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    scheduler.add_job(print, "interval", hours=1, id="settle", next_run_time=in_an_hour)
    scheduler.start(paused=True)
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    migrate(database)
    clock = Clock(database)
    clock.when_set_back(lambda: tick_now(scheduler))
    true = clocks._own_ahead()
    monkeypatch.setattr(clocks, "_own_ahead", lambda: true - 3600)
    clock._look_at_own()
    try:
        assert scheduler.get_job("settle").next_run_time < in_an_hour - timedelta(minutes=30)
    finally:
        scheduler.shutdown()
        database.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("ended", [False, True])
def test_a_clock_set_ahead_makes_no_series_look_silent(
    database: Database, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    clock, true = Clock(database, takes_along=True), clocks._own_ahead()
    with database.write() as session:
        association = open_association(session, "SENDER", "127.0.0.1", "host:1", clock())
        add_instance(session, replace(new_instance(1), association_id=association), clock())
        if ended:
            close_association(session, association, clock())
    monkeypatch.setattr(clocks, "_own_ahead", lambda: true + 3600)
    quiet, idle = timedelta(seconds=10), timedelta(seconds=60)

    def settled(now: datetime) -> bool:
        with database.read() as session:
            return bool(series_to_settle(session, now, quiet, idle, Counting()))

    assert settled(datetime.now(UTC) + timedelta(hours=1))  # what the clock is followed for
    clock._look_at_own()
    clock._look_at_own()
    assert clock() - datetime.now(UTC) > timedelta(minutes=59)
    assert not settled(clock())
    assert settled(clock() + quiet) == ended
    assert settled(clock() + 2 * idle)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_only_the_process_that_images_arrive_in_takes_their_times_along(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, true = Clock(database), clocks._own_ahead()
    with database.write() as session:
        add_instance(session, new_instance(1), later(0))
    monkeypatch.setattr(clocks, "_own_ahead", lambda: true + 3600)
    clock._look_at_own()
    with database.read() as session:
        assert session.get_one(SeriesRow, 1).last_received_at == later(0)
    assert clock() - datetime.now(UTC) > timedelta(minutes=59)
