"""Faults of one worker and its surroundings: killed processes, a PACS, a database or a disk in trouble."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.bed import START_SECONDS, Bed, Outcome, bed, check, process_of_role
from tests.testbed import postgres
from tests.testbed.pacs import Behaviour, Pacs
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess


def killed_processes(folder: Path, series: int, kills: int, seed: int = 1, real_peers: bool = False) -> Outcome:
    """SIGKILL of receiver, inference, sender or all at random moments."""
    outcome = Outcome("SIGKILL of receiver, inference, sender or all", seed=seed)
    dice = random.Random(seed)
    pause = max(0.05, kills * 0.35 / series)  # the senders are at work for most of the kills
    with bed(folder, series, 4, 60 + 20 * kills, pause=pause, real_peers=real_peers) as site:
        kill_at_random(outcome, site.worker, kills, dice)
        return check(outcome, site, series, 120 + 10 * kills)


def kill_at_random(outcome: Outcome, worker: WorkerProcess, kills: int, dice: random.Random) -> None:
    """SIGKILL of a process, or of all, so many times."""
    struck = dict.fromkeys(("receive", "infer", "send", "all"), 0)
    while outcome.tries < kills:
        time.sleep(dice.uniform(0.3, 2.5))
        role = dice.choice(list(struck))
        if role == "all":
            worker.kill()
            worker.start(START_SECONDS)
        elif not _kill_role(worker, role):
            continue
        struck[role] += 1
        outcome.tries += 1
    outcome.measured.append(", ".join(f"{role} {number}" for role, number in struck.items()))


def _kill_role(worker: WorkerProcess, role: str) -> bool:
    """SIGKILL to one process of that role; False when none runs just now."""
    pid = process_of_role(worker, role)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def misbehaving_pacs(folder: Path, series: int, rounds: int, seed: int = 2, real_peers: bool = False) -> Outcome:
    """The PACS refuses, aborts, answers 0xA700 and 0xC000, hangs, resets, is down and returns."""
    outcome = Outcome("PACS refuses, aborts, 0xA700, 0xC000, hangs, resets, is down and returns", seed=seed)
    dice = random.Random(seed)
    pause = rounds * 1.5 / series
    with bed(
        folder, series, 4, 60 + 20 * rounds, pause=pause, real_peers=real_peers,
        settings={"receive": {"quiet_seconds": 1, "minimum_free_bytes": 0}},
    ) as site:  # fmt: skip
        faults: list[Callable[[], None]] = [
            lambda: _behave(site.pacs, Behaviour.REFUSE, 0xA700),
            lambda: _behave(site.pacs, Behaviour.REFUSE, 0xC000),
            lambda: _behave(site.pacs, Behaviour.ABORT),
            lambda: _behave(site.pacs, Behaviour.SLOW, delay_seconds=35 if rounds > 6 else 1),  # 30 s is the time-out
            lambda: _behave(site.pacs, Behaviour.RESET),
            site.pacs.stop,
        ]
        for number in range(rounds):
            faults[number % len(faults)]()
            time.sleep(dice.uniform(1, 3))
            if number % len(faults) == len(faults) - 1:
                site.pacs.start()
            outcome.tries += 1
        _behave(site.pacs, Behaviour.ACCEPT)
        check(outcome, site, series, 120 + 15 * rounds)
        _measure_other_destination(outcome, site)
        return outcome


def _behave(pacs: Pacs, behaviour: Behaviour, status: int = 0xA700, delay_seconds: float = 1) -> None:
    pacs.behaviour, pacs.status, pacs.delay_seconds = behaviour, status, delay_seconds


def _measure_other_destination(outcome: Outcome, site: Bed) -> None:
    """How long reports took to Orthanc while the other destination misbehaved: it must not be held up."""
    if site.orthanc is None:
        return
    [(seconds,)] = site.rows(
        """SELECT max((julianday(delivered_at) - julianday(result.created_at)) * 86400) FROM delivery
        JOIN object ON object.id = delivery.object_id JOIN result ON result.id = object.result_id
        WHERE destination = 'orthanc'"""
    )
    outcome.measured.append(f"slowest delivery to the other destination (Orthanc) {seconds:.1f} s")
    if seconds > 60:
        outcome.fault_found("the other destination was delayed")


def locked_database(folder: Path, series: int, seconds: float) -> Outcome:
    """Another program holds SQLite's write lock."""
    outcome = Outcome(f"SQLite locked for {seconds:g} s", tries=1)
    with bed(folder, series, 4, 120 + 4 * seconds, pause=0.05) as site:
        time.sleep(1)
        lock = sqlite3.connect(site.worker.data / "worker.db", isolation_level=None, timeout=30)
        lock.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        lock.execute("ROLLBACK")
        lock.close()
        return check(outcome, site, series, 180 + series)


def restarted_database(folder: Path, series: int, restarts: int, seconds: float) -> Outcome:
    """PostgreSQL crashes while senders push and series are classified, and is back `seconds` later."""
    outcome = Outcome(f"PostgreSQL away for {seconds:g} s and restarted, pushing and classifying")
    with (
        postgres.server() as server,
        bed(
            folder, series, 4, 240 + restarts * seconds * 4, pause=max(0.05, restarts * seconds / series),
            database_url=server.url, real_peers=restarts > 1,
        ) as site,
    ):  # fmt: skip
        for _ in range(restarts):
            before = len(site.acknowledged)
            wait_until(
                lambda before=before: len(site.acknowledged) > before or not site.sending, "senders to go on", 120
            )
            server.stop()
            time.sleep(seconds)
            site.worker.require_alive()
            server.start()
            outcome.tries += 1
        return check(outcome, site, series, 240 + series)


def can_mount() -> bool:
    """A disk that is really full takes a file system of our own."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return mounted.returncode == 0


@contextmanager
def _small_disk(folder: Path, series: int) -> Iterator[None]:
    """A disk that would hold everything, pictures included: what fills it must be the filler."""
    folder.mkdir(parents=True)
    size = f"size={64 + 3 * series}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        # A process that was killed a moment ago may still be on its way out.
        wait_until(lambda: subprocess.run(["umount", str(folder)]).returncode == 0, "the disk to be let go of", 30)


def full_disk(folder: Path, series: int) -> Outcome:
    """A small tmpfs fills to the last byte while senders push, then has room again."""
    outcome = Outcome("disk full (a small tmpfs), then space again", tries=1)
    data = folder / "worker" / "var"
    settings = {"receive": {"minimum_free_bytes": 8 << 20}}
    with (
        _small_disk(data, series),
        bed(folder, series, 4, 240 + 2 * series, pause=min(1.0, 20 / series), settings=settings) as site,
    ):
        time.sleep(1)  # the senders are in the middle of a series
        _fill(data / "filler")
        wait_until(lambda: sum(one.refusals for one in site.senders) >= 5, "0xA700 to be answered", 60)
        outcome.measured.append(f"{sum(one.refusals for one in site.senders)} refusals")
        halves = len(list((data / "instances" / "incoming").iterdir()))
        if halves > len(site.senders):
            outcome.fault_found(f"{halves} half files")
        (data / "filler").unlink()
        return check(outcome, site, series, 180 + series)


def _fill(filler: Path) -> None:
    """Write until there is no room for another kilobyte; SQLite's own files then cannot grow either."""
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 10):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
