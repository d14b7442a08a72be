"""Who is alive, on this host and on others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from tests.testbed.instances import later
from worker.db.engine import Database
from worker.db.processes import (
    FETCH,
    FORGOTTEN_AFTER,
    add_stage_times,
    beat,
    is_lost,
    list_processes,
    remove_process,
    stage_times,
)
from worker.process import ProcessRole
from worker.stage_times import StageCount, StageKey

LEASE = timedelta(seconds=30)
OURS = f"{socket.gethostname()}:{os.getpid()}"


def _seen(database: Database, seconds: float) -> list[tuple[str, str, bool]]:
    with database.read() as session:
        return [
            (process.role, process.name, process.lost) for process in list_processes(session, later(seconds), LEASE)
        ]


def _beat(database: Database, name: str, role: str, at: float, started: float = 0) -> None:
    with database.write() as session:
        beat(session, name, role, later(started), later(at))


def _ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_silent_process_of_another_host_is_lost_after_a_lease_and_forgotten_after_a_day(database: Database) -> None:
    _beat(database, "elsewhere:7", ProcessRole.INFER, at=10)
    assert _seen(database, 39) == [("infer", "elsewhere:7", False)]
    assert _seen(database, 40) == [("infer", "elsewhere:7", True)]
    assert _seen(database, 10 + FORGOTTEN_AFTER.total_seconds()) == []


def test_a_command_is_alive_while_it_beats_and_nobody_misses_it_afterwards(database: Database) -> None:
    _beat(database, "elsewhere:7", FETCH, at=10)
    assert _seen(database, 39) == [(FETCH, "elsewhere:7", False)]
    assert _seen(database, 40) == []
    with database.read() as session:
        assert [is_lost(session, "elsewhere:7", later(at), LEASE) for at in (39, 40)] == [False, True]


def test_a_process_that_ended_on_this_host_is_not_shown(database: Database) -> None:
    _beat(database, f"{socket.gethostname()}:{_ended()}", ProcessRole.INFER, at=10)
    assert _seen(database, 11) == []


def test_a_process_that_ends_removes_its_own_row_only(database: Database) -> None:
    _beat(database, OURS, ProcessRole.SEND, at=1)
    _beat(database, "elsewhere:7", ProcessRole.SEND, at=1)
    with database.write() as session:
        remove_process(session, OURS)
    assert _seen(database, 2) == [("send", "elsewhere:7", False)]


def test_the_first_beat_removes_what_ended_before_it(database: Database) -> None:
    _beat(database, f"{socket.gethostname()}:{_ended()}", ProcessRole.INFER, at=1)
    _beat(database, "gone:1", ProcessRole.INFER, at=1)
    _beat(database, "elsewhere:7", ProcessRole.INFER, at=5)
    _beat(database, OURS, ProcessRole.RECEIVE, at=2 + FORGOTTEN_AFTER.total_seconds(), started=1)
    with database.read() as session:
        everything = list_processes(session, later(0), LEASE)
    assert [process.name for process in everything] == ["elsewhere:7", OURS]


def test_who_is_lost(database: Database) -> None:
    _beat(database, "elsewhere:7", ProcessRole.RECEIVE, at=10)
    names = {"elsewhere:7", "never-seen:1", OURS, f"{socket.gethostname()}:{_ended()}"}
    with database.read() as session:
        soon = {name for name in names if is_lost(session, name, later(20), LEASE)}
        late = {name for name in names if is_lost(session, name, later(41), LEASE)}
    assert soon == names - {"elsewhere:7", OURS}
    assert late == names - {OURS}  # this process runs, whatever it has recorded


def test_stage_times_of_all_processes_are_added_up(database: Database) -> None:
    read, send = StageKey("series", "read", 100), StageKey("delivery", "send", 20)
    for counts in ({read: StageCount(2, 0.15), send: StageCount(1, 0.02)}, {}, {read: StageCount(1, 0.1)}):
        with database.write() as session:
            add_stage_times(session, counts)
    with database.read() as session:
        times = stage_times(session)
    assert {key: count.number for key, count in times.items()} == {read: 3, send: 1}
    assert times[read].seconds == pytest.approx(0.25)


def test_processes_that_add_the_same_times_at_once_do_not_fail(database: Database) -> None:
    keys = [StageKey("series", "read", bound) for bound in (1, 2, 5, 10)]
    faults: list[BaseException] = []

    def add(order: list[StageKey]) -> None:
        try:
            for _ in range(25):
                with database.write() as session:
                    add_stage_times(session, dict.fromkeys(order, StageCount(1, 0.5)))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=add, args=(order,)) for order in (keys, keys[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with database.read() as session:
        assert stage_times(session) == dict.fromkeys(keys, StageCount(50, 25.0))
