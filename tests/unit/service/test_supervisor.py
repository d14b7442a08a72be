"""A job that takes its process down is tried again, then parked with the cause; the others go on."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import select

from tests.testbed import poison
from tests.testbed.databases import make_tables
from tests.testbed.instances import MODEL, later, new_instance
from tests.testbed.waiting import patience, wait_until
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job
from worker.db.models import model_row
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import JobRow, JobState
from worker.process import ProcessRole
from worker.service import supervisor as supervisor_module
from worker.service.fork_server import ForkServerEnded
from worker.service.pulse import PULSE, SUPERVISED
from worker.service.supervisor import SILENCE_SECONDS, START_ERROR_EXIT, Child, Supervisor, cause_of_death


class Commands:
    """Starts Python with these arguments in place of any role."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, *arguments]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, role: ProcessRole, lifeline: int, pulse: int) -> int:
        environment = dict(os.environ) | {SUPERVISED: "1", PULSE: str(pulse)}
        process = subprocess.Popen(self._command, stdin=lifeline, env=environment, pass_fds=(pulse,))
        self.processes[process.pid] = process
        return process.pid

    def exit_status(self, pid: int) -> int | None:
        return self.processes[pid].poll()


class Killed(Commands):
    """Its process is gone: nobody knows any more how what it started ended."""

    def exit_status(self, pid: int) -> int | None:
        raise ForkServerEnded


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def queued(tmp_path: Path) -> Database:
    """A job for each kind of series, the harmless ones between the poisonous ones."""
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    with database.write() as session:
        model = model_row(session, MODEL, later(0)).id
        for number, kind in enumerate(("good", "segfault", "hang", "greedy", "good")):
            content = kind.encode()
            new = new_instance(1, f"{number}", size=len(content), sha256=hashlib.sha256(content).hexdigest())
            row = add_instance(session, new, later(0))
            (tmp_path / new.path).parent.mkdir(parents=True)
            (tmp_path / new.path).write_bytes(content)
            series = lock_open_series(session, row.series_id, later(0))
            assert series is not None
            queue_series(session, series, model, later(1))
    return database


def test_poison_is_parked_with_its_cause_and_the_others_are_classified(queued: Database, tmp_path: Path) -> None:
    poisoned = Commands("-m", "tests.testbed.poison", str(queued.engine.url), str(tmp_path))
    supervisor = Supervisor([Child(ProcessRole.INFER, poisoned)], queued, _now)
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        jobs = wait_until(lambda: _ended(queued), "every job to end", seconds=200)
    finally:
        stop.set()
        thread.join()
    assert [(job.state, job.reason) for job in jobs] == [
        ("done", None),
        ("parked", "process-died"),
        ("parked", "time-limit"),
        ("parked", "memory-limit"),
        ("done", None),
    ]
    assert jobs[1].detail == "the inference process was ended by SIGSEGV"
    # The claim that finds the attempts spent counts as another attempt.
    assert [job.attempts for job in jobs] == [1, poison.ATTEMPTS + 1, poison.ATTEMPTS + 1, poison.ATTEMPTS, 1]


def _ended(database: Database) -> list[JobRow] | None:
    with database.read() as session:
        jobs = list(session.scalars(select(JobRow).order_by(JobRow.id)))
    return jobs if all(job.state in (JobState.DONE, JobState.PARKED) for job in jobs) else None


def test_a_process_that_cannot_start_ends_the_service(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    lasting, refused = Commands("-c", "import time; time.sleep(600)"), Commands("-c", f"exit({START_ERROR_EXIT})")
    children = [Child(ProcessRole.SEND, lasting), Child(ProcessRole.WEB, refused)]
    assert Supervisor(children, database, _now).run(threading.Event()) == START_ERROR_EXIT
    assert [process.returncode for process in lasting.processes.values()] == [-signal.SIGTERM]


def test_without_the_fork_server_the_service_ends_and_takes_the_roles_along(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    lasting = Killed("-c", "import sys; sys.stdin.read()")
    assert Supervisor([Child(ProcessRole.RECEIVE, lasting)], database, _now).run(threading.Event()) == 1
    [process] = lasting.processes.values()
    assert process.wait(patience(30)) == 0


_BEATS = "import os, sys, time; time.sleep(0.5); print(time.monotonic(), file=open(sys.argv[1], 'w'), flush=True); \
os.write(int(os.environ['BRAIN_MRI_WORKER_PULSE']), b'.'); time.sleep(600)"
_STARTS = "import sys, time; print(time.monotonic(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(600)"


@pytest.mark.parametrize(
    ("receiver", "longest"), [(_BEATS, 600.0), (_STARTS, 0.1)], ids=["that works", "that does not"]
)
def test_the_others_start_when_the_receiver_works_or_after_the_longest_head_start(
    receiver: str, longest: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_LONGEST_HEAD_START_SECONDS", longest)
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    files = [tmp_path / name for name in ("receive", "web")]
    children = [
        Child(role, Commands("-c", program, str(file)))
        for role, program, file in zip(
            (ProcessRole.WEB, ProcessRole.RECEIVE), (_STARTS, receiver), files[::-1], strict=True
        )
    ]
    stop = threading.Event()
    thread = threading.Thread(target=Supervisor(children, database, _now).run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files), "both to start")
    finally:
        stop.set()
        thread.join()
    works, starts = (float(file.read_text()) for file in files)
    assert receiver is _STARTS or works < starts


def test_a_start_that_fails_is_tried_ever_more_slowly_and_a_poisonous_job_is_not() -> None:
    child = Child(ProcessRole.INFER, Commands())
    assert [child.schedule_restart(killed_by_job=False) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert child.schedule_restart(killed_by_job=True) == 0.5


def test_the_cause_of_a_death_is_told() -> None:
    assert cause_of_death(-signal.SIGKILL) == ("process-died", "the inference process was ended by SIGKILL")
    assert cause_of_death(-signal.SIGALRM)[0] == "time-limit"
    assert cause_of_death(-signal.SIGVTALRM)[0] == "time-limit"
    assert cause_of_death(1) == ("process-died", "the inference process ended with status 1")


@pytest.mark.parametrize("kind", ["stopped", "interpreter", "loop"])
def test_a_process_that_hangs_is_replaced_its_port_freed_and_its_lease_released(
    kind: str, queued: Database, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    frozen = Commands("-m", "tests.testbed.frozen", kind, str(port))
    child = Child(ProcessRole.INFER, frozen)
    supervisor = Supervisor([child], queued, _now, silence_seconds=3)
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: child.beat_at, "the first beat", seconds=100)
        [first] = frozen.processes.values()
        with queued.write() as session:
            [model] = session.scalars(select(JobRow.model_id).distinct())
            owner = f"{socket.gethostname()}:{first.pid}"
            job = claim_job(session, owner, [model], _now(), timedelta(seconds=600))
            assert job is not None
        if kind == "stopped":
            first.send_signal(signal.SIGSTOP)
        wait_until(lambda: first.returncode == -signal.SIGKILL, "the end of what hangs", seconds=100)
        wait_until(lambda: child.pid not in (None, first.pid) and child.beat_at, "its successor", seconds=100)
        with queued.read() as session:
            row = session.get_one(JobRow, job.id)
            assert row.reason == "process-hung"
            assert row.lease_until is None or row.lease_until <= _now()
    finally:
        stop.set()
        thread.join()


def test_silence_while_nobody_ran_is_forgiven() -> None:
    child = Child(ProcessRole.SEND, Commands(), beat_at=time.monotonic() - 1000)
    supervisor = Supervisor([child], cast(Database, None), _now)
    supervisor._looked -= 1000
    supervisor._forgive_after_sleep()
    assert child.silent_for() < 1


def test_a_start_may_take_longer_than_silence() -> None:
    starting = Child(ProcessRole.INFER, Commands(), started=time.monotonic() - 300)
    assert starting.silent_for() < 0
    assert Child(ProcessRole.INFER, Commands(), started=time.monotonic() - 1000).silent_for() > SILENCE_SECONDS
