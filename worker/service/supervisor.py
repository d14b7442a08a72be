"""Start the roles' processes, restart those that die, record on the job why, and stop all at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from worker.db.engine import Database
from worker.db.jobs import lease_owners, record_death, release_leases_of
from worker.logs import fault_fields, get_log
from worker.process import ProcessRole, is_dead

START_ERROR_EXIT = 2
SUPERVISED = "BRAIN_MRI_WORKER_SUPERVISED"  # set in a child's environment: it ends with its supervisor
_STOP_SECONDS = 7.0  # of the ten that a service manager grants
# Of the receiver: senders wait for it, and the imports of the other roles would occupy all processors.
_HEAD_START_SECONDS = 0.6
_FIRST_RESTART_SECONDS = 0.5
_SLOWEST_RESTART_SECONDS = 30.0


@dataclass
class Child:
    """A process of a role, and its number of consecutive failures."""

    role: ProcessRole
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started: float = 0.0
    restart_at: float = 0.0

    def start(self) -> None:
        environment = dict(os.environ) | {SUPERVISED: "1"}
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, env=environment)
        self.started = time.monotonic()

    def close_lifeline(self) -> None:
        """Close the pipe of a process that has ended; a living process would end with it."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def schedule_restart(self, *, killed_by_job: bool) -> float:
        """Count the failure; the seconds until the next start. Delays grow unless a job killed the process."""
        self.close_lifeline()
        self.process = None
        self.failures += 1
        doublings = 0 if killed_by_job else min(self.failures - 1, 10)
        wait = min(_SLOWEST_RESTART_SECONDS, _FIRST_RESTART_SECONDS * 2.0**doublings)
        self.restart_at = time.monotonic() + wait
        return wait


class Supervisor:
    """Watches its children from `run` until its event is set."""

    def __init__(self, children: Sequence[Child], database: Database, clock: Callable[[], datetime]) -> None:
        self._children = children
        self._database = database
        self._clock = clock

    def run(self, stop: threading.Event) -> int:
        """Run until `stop`, or until a child cannot start; the exit status of the service."""
        self._release_dead_leases()
        for child in self._children:
            if child.role == ProcessRole.RECEIVE:
                child.start()
            else:
                child.restart_at = time.monotonic() + _HEAD_START_SECONDS
        status = 0
        while not stop.wait(0.1):
            if self._check_children() == START_ERROR_EXIT:
                status = START_ERROR_EXIT
                break
        self._stop_all()
        return status

    def _check_children(self) -> int:
        for child in self._children:
            if child.process is None:
                if time.monotonic() >= child.restart_at:
                    child.start()
                continue
            code = child.process.poll()
            if code is None:
                if child.failures and time.monotonic() - child.started > _SLOWEST_RESTART_SECONDS:
                    child.failures = 0
                continue
            if code == START_ERROR_EXIT and child.failures == 0:
                return START_ERROR_EXIT  # it has printed the reason
            killed_by_job = self._record_death(child.process.pid, code)
            wait = child.schedule_restart(killed_by_job=killed_by_job)
            get_log().error("process died; restarting", role=child.role, code=code, wait_seconds=wait)
            self._release_dead_leases()
        return 0

    def _record_death(self, pid: int, code: int) -> bool:
        """Record on its job how a process died; whether it had a job."""
        reason, detail = cause_of_death(code)
        try:
            with self._database.write() as session:
                return record_death(session, f"{socket.gethostname()}:{pid}", reason, detail) > 0
        except Exception as error:  # the supervisor's boundary; the attempt counts in any case
            get_log().warning("death not recorded", **fault_fields(error))
            return False

    def _release_dead_leases(self) -> None:
        try:
            release_dead_leases(self._database, self._clock())
        except Exception as error:  # the supervisor's boundary; the leases expire by themselves
            get_log().warning("leases not released", **fault_fields(error))

    def _stop_all(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # its lease expires and another process takes the job
                process.wait()
        for child in self._children:
            child.close_lifeline()


def cause_of_death(code: int) -> tuple[str, str]:
    """(reason, detail) for a job whose process ended with that status; negative: the number of a signal."""
    if code == -signal.SIGALRM:
        return "time-limit", "the job exceeded [worker] job_timeout_seconds"
    if code < 0:
        return "process-died", f"the inference process was ended by {signal.Signals(-code).name}"
    return "process-died", f"the inference process ended with status {code}"


def release_dead_leases(database: Database, moment: datetime) -> None:
    """Expire the leases of this host's dead processes, so that their work can be claimed at once."""
    host = socket.gethostname()
    with database.read() as session:
        owners = lease_owners(session)
    dead = [owner for owner in owners if is_dead(owner, host)]
    if dead:
        with database.write() as session:
            for owner in dead:
                release_leases_of(session, owner, moment)
