"""Who is alive, on this host and on others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta

from tests.testbed.instances import later
from worker.db.engine import Database
from worker.db.processes import FORGOTTEN_AFTER, beat, is_lost, list_processes, remove_process
from worker.process import ProcessRole

LEASE = timedelta(seconds=30)
OURS = f"{socket.gethostname()}:{os.getpid()}"


def _seen(database: Database, seconds: float) -> list[tuple[str, str, bool]]:
    with database.read() as session:
        return [
            (process.role, process.name, process.lost) for process in list_processes(session, later(seconds), LEASE)
        ]


def _beat(database: Database, name: str, role: ProcessRole, at: float, started: float = 0) -> None:
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
