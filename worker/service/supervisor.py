"""Start the roles' processes, restart those that die or hang, record on the job why, and stop all at the end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from worker.db.engine import Database
from worker.db.jobs import lease_owners, record_death, release_leases_of
from worker.logs import fault_fields, get_log
from worker.process import ProcessRole, is_dead
from worker.service.fork_server import ForkServerEnded

START_ERROR_EXIT = 2
_STOP_SECONDS = 7.0  # of the ten that a service manager grants
# The other roles start when the receiver works, or after so long: senders wait for it, and what the others import would
# occupy all processors.
_LONGEST_HEAD_START_SECONDS = 3.0
_FIRST_RESTART_SECONDS = 0.5
SILENCE_SECONDS = 30.0
_START_SECONDS = 600.0  # until the first beat: models are loaded, on a slow disk
_ASLEEP_SECONDS = 5.0  # without a look of ours, the machine or the whole service was stopped
_SLOWEST_RESTART_SECONDS = 30.0


class Starter(Protocol):
    """What starts processes of roles and knows how they ended: the fork server."""

    def start(self, role: ProcessRole, lifeline: int, pulse: int) -> int:
        """Start a process, with these ends of pipes; its id. Raises ForkServerEnded."""

    def exit_status(self, pid: int) -> int | None:
        """How it ended, negative the number of a signal; None while it runs. Raises ForkServerEnded."""


@dataclass
class Child:
    """A process of a role, and its number of consecutive failures."""

    role: ProcessRole
    starter: Starter
    pid: int | None = None
    failures: int = 0
    started: float = 0.0
    restart_at: float = 0.0
    lifeline: int | None = None  # it ends when this is closed
    pulse: int | None = None
    beat_at: float | None = None
    is_hung: bool = False

    def start(self) -> None:
        its_lifeline, self.lifeline = os.pipe()
        self.pulse, its_pulse = os.pipe()
        os.set_blocking(self.pulse, False)
        try:
            self.pid = self.starter.start(self.role, its_lifeline, its_pulse)
        finally:
            os.close(its_lifeline)
            os.close(its_pulse)
        self.started, self.beat_at, self.is_hung = time.monotonic(), None, False

    def exit_status(self) -> int | None:
        """How its process ended; None while it runs. Raises ForkServerEnded."""
        return None if self.pid is None else self.starter.exit_status(self.pid)

    def send_signal(self, number: int) -> None:
        """Send a signal to its process if it runs."""
        if self.pid is not None and self.exit_status() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def silent_for(self) -> float:
        """The seconds since its last beat; before its first, less what a start may take."""
        try:
            if self.pulse is not None and os.read(self.pulse, 1 << 16):
                self.beat_at = time.monotonic()
        except BlockingIOError:
            pass
        since = self.beat_at if self.beat_at is not None else self.started + _START_SECONDS
        return time.monotonic() - since

    def forgive_silence(self) -> None:
        """Count its silence from now on."""
        if self.beat_at is not None:
            self.beat_at = time.monotonic()

    def close_pipes(self) -> None:
        """Close those of a process that has ended; a living process would end with it."""
        for end in (self.lifeline, self.pulse):
            if end is not None:
                os.close(end)
        self.lifeline = self.pulse = None

    def schedule_restart(self, *, killed_by_job: bool) -> float:
        """Count the failure; the seconds until the next start. Delays grow unless a job killed the process."""
        self.close_pipes()
        self.pid = None
        self.failures += 1
        doublings = 0 if killed_by_job else min(self.failures - 1, 10)
        wait = min(_SLOWEST_RESTART_SECONDS, _FIRST_RESTART_SECONDS * 2.0**doublings)
        self.restart_at = time.monotonic() + wait
        return wait


class Supervisor:
    """Watches its children from `run` until its event is set; ends a child that is silent for `silence_seconds`."""

    def __init__(
        self,
        children: Sequence[Child],
        database: Database,
        clock: Callable[[], datetime],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._children = children
        self._database = database
        self._clock = clock
        self._silence_seconds = silence_seconds
        self._looked = time.monotonic()

    def run(self, stop: threading.Event) -> int:
        """Run until `stop`, or until a child cannot start; the exit status of the service."""
        self._release_dead_leases()
        for child in self._children:
            if child.role == ProcessRole.RECEIVE:
                child.start()
            else:
                child.restart_at = time.monotonic() + _LONGEST_HEAD_START_SECONDS
        status = 0
        try:
            while not stop.wait(0.1):
                if self._check_children() == START_ERROR_EXIT:
                    status = START_ERROR_EXIT
                    break
            self._stop_all()
        except ForkServerEnded:  # somebody killed it; a service manager starts the whole service anew
            get_log().error("the fork server died; ending the service")
            for child in self._children:
                child.close_pipes()  # with which they end
            return 1
        return status

    def _check_children(self) -> int:
        self._forgive_after_sleep()
        for child in self._children:
            if child.pid is None:
                if time.monotonic() >= child.restart_at or (not child.started and self._receives()):
                    child.start()
                continue
            code = child.exit_status()
            if code is None:
                self._end_if_hung(child)
                if child.failures and time.monotonic() - child.started > _SLOWEST_RESTART_SECONDS:
                    child.failures = 0
                continue
            if code == START_ERROR_EXIT and child.failures == 0:
                return START_ERROR_EXIT  # it has printed the reason
            killed_by_job = self._record_death(child, child.pid, code)
            wait = child.schedule_restart(killed_by_job=killed_by_job)
            get_log().error("process died; restarting", role=child.role, code=code, wait_seconds=wait)
            self._release_dead_leases()
        return 0

    def _receives(self) -> bool:
        """Whether the receiver, if any, has told that it works."""
        return all(child.beat_at is not None for child in self._children if child.role == ProcessRole.RECEIVE)

    def _forgive_after_sleep(self) -> None:
        """Nobody was silent while this process did not run either."""
        now = time.monotonic()
        if now - self._looked > _ASLEEP_SECONDS:
            for child in self._children:
                child.forgive_silence()
        self._looked = now

    def _end_if_hung(self, child: Child) -> None:
        """Kill a process that is silent; it is replaced like a process that died."""
        silent = child.silent_for()
        if not child.is_hung and silent > self._silence_seconds:
            get_log().error("process hangs; ending it", role=child.role, silent_seconds=round(silent, 1))
            child.is_hung = True
            child.send_signal(signal.SIGKILL)  # SIGTERM would wait for what does not run

    def _record_death(self, child: Child, pid: int, code: int) -> bool:
        """Record on its job how a process died; whether it had a job."""
        reason, detail = cause_of_death(code)
        if child.is_hung:
            reason, detail = "process-hung", "the inference process hung, and the supervisor ended it"
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
        running = [child for child in self._children if child.pid is not None]
        for child in running:
            child.send_signal(signal.SIGTERM)
        _wait_for(running, _STOP_SECONDS)
        for child in running:
            child.send_signal(signal.SIGKILL)  # its lease expires and another process takes the job
        _wait_for(running, _STOP_SECONDS)
        for child in running:
            child.close_pipes()


def _wait_for(children: Sequence[Child], seconds: float) -> None:
    """Wait until their processes have ended, or for so long. Raises ForkServerEnded."""
    deadline = time.monotonic() + seconds
    while any(child.exit_status() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)


def cause_of_death(code: int) -> tuple[str, str]:
    """(reason, detail) for a job whose process ended with that status; negative: the number of a signal."""
    if code == -signal.SIGALRM:
        return "time-limit", "the job exceeded [worker] job_timeout_seconds"
    if code == -signal.SIGVTALRM:
        return "time-limit", "decoding a file of the series exceeded [worker] decoder_seconds"
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
