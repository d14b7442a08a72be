from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.testbed.databases import make_tables
from tests.testbed.instances import later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance, close_association, open_association
from worker.db.settling import CountPolicy, series_to_settle
from worker.db.tables import SeriesRow
from worker.service import clock as clocks
from worker.service.clock import Clock
from worker.service.schedule import tick_now


def test_the_database_is_the_referee_where_hosts_share_it(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = clocks._own_ahead()
    monkeypatch.setattr(clocks, "_own_ahead", lambda: true - 3600)
    database = Database(postgres_url)
    clock = Clock(database)
    clock._ask_database()
    database.close()
    assert abs(clock() - datetime.now(UTC)) < timedelta(minutes=10)


def test_ticks_go_on_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apscheduler.schedulers.background import BackgroundScheduler

    scheduler = BackgroundScheduler(timezone="UTC")
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    scheduler.add_job(print, "interval", hours=1, id="settle", next_run_time=in_an_hour)
    scheduler.start(paused=True)
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    clock = Clock(database)
    clock.when_set_back(lambda: tick_now(scheduler))
    true = clocks._own_ahead()
    monkeypatch.setattr(clocks, "_own_ahead", lambda: true - 3600)
    clock._check_own()
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
    clock, true = Clock(database, shifts_arrivals=True), clocks._own_ahead()
    with database.write() as session:
        association = open_association(session, "SENDER", "127.0.0.1", "host:1", clock())
        add_instance(session, replace(new_instance(1), association_id=association), clock())
        if ended:
            close_association(session, association, clock())
    monkeypatch.setattr(clocks, "_own_ahead", lambda: true + 3600)
    quiet, idle = timedelta(seconds=10), timedelta(seconds=60)

    def settled(now: datetime) -> bool:
        with database.read() as session:
            return bool(series_to_settle(session, now, quiet, idle, CountPolicy()))

    assert settled(datetime.now(UTC) + timedelta(hours=1))  # what the clock is followed for
    clock._check_own()
    clock._check_own()
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
    clock._check_own()
    with database.read() as session:
        assert session.get_one(SeriesRow, 1).last_received_at == later(0)
    assert clock() - datetime.now(UTC) > timedelta(minutes=59)
