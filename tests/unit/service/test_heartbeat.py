"""The heartbeat's thread, on both databases."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import count

import pytest

from tests.testbed.instances import later
from tests.testbed.waiting import wait_until
from worker.db.engine import Database
from worker.db.processes import ProcessStatus, list_processes, stage_times
from worker.process import ProcessRole, process_name
from worker.service import heartbeat
from worker.service.heartbeat import beating
from worker.stage_times import StageCount, StageKey, StageTimes

LEASE = timedelta(seconds=30)


def _seen(database: Database) -> list[ProcessStatus]:
    with database.read() as session:
        return list_processes(session, later(6), LEASE)


def test_a_process_is_seen_while_it_beats_and_gone_after_its_end(database: Database) -> None:
    with beating(database, ProcessRole.SEND, LEASE, lambda: later(5)):
        assert [(process.role, process.name, process.lost) for process in _seen(database)] == [
            ("send", process_name(), False)
        ]
    assert _seen(database) == []


def test_beats_are_told_by_another_thread(database: Database) -> None:
    times = count()

    def after_three_beats() -> list[ProcessStatus]:
        return [process for process in _seen(database) if process.seen_at > later(3)]

    with beating(database, ProcessRole.INFER, timedelta(seconds=0.03), lambda: later(next(times))):
        [process] = wait_until(after_three_beats, "three beats", every=0.01)
    assert process.started_at == later(0)


def test_a_process_that_hangs_is_not_seen_again(database: Database) -> None:
    times = count()
    with beating(database, ProcessRole.INFER, timedelta(seconds=0.03), lambda: later(next(times)), lambda: False):
        time.sleep(0.3)
        [process] = _seen(database)
    assert process.seen_at == later(1)


def test_stage_times_are_written_with_beats_and_at_the_end_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = StageTimes()
    monkeypatch.setattr(heartbeat, "STAGE_TIMES", own)

    def written() -> dict[StageKey, StageCount]:
        with database.read() as session:
            return stage_times(session)

    key = StageKey("series", "read", 500)
    with beating(database, ProcessRole.INFER, timedelta(seconds=0.03), lambda: later(0)):
        own.add("series", "read", 0.5)
        wait_until(lambda: written() == {key: StageCount(1, 0.5)}, "a beat with it", every=0.01)
    with beating(database, ProcessRole.INFER, LEASE, lambda: later(0)):
        own.add("series", "read", 0.5)
    assert written() == {key: StageCount(2, 1.0)}


def test_stage_times_that_could_not_be_written_are_written_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = StageTimes()
    monkeypatch.setattr(heartbeat, "STAGE_TIMES", own)
    own.add("series", "read", 0.5)
    lost = Database("sqlite:////dev/null/worker.db")
    with beating(lost, ProcessRole.INFER, LEASE, lambda: later(0)):
        pass
    with beating(database, ProcessRole.INFER, LEASE, lambda: later(0)):
        pass
    with database.read() as session:
        assert stage_times(session) == {StageKey("series", "read", 500): StageCount(1, 0.5)}
