"""Faults under load, counted: `make soak` runs the long form and prints the table, pytest the short one.

Every scenario starts a real worker and a real peer, sends real series with senders that repeat what was not
acknowledged, breaks something on purpose, and then counts what was lost and what came twice. Seeds are fixed, times are
bounded.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.association import Association

from tests.testbed import worker_process
from tests.testbed.instances import encoded, mr_instance
from tests.testbed.pacs import PICTURES, REPORTS, Behaviour, Pacs
from tests.testbed.tiny_bundle import make_tiny_bundle
from tests.testbed.worker_process import WorkerProcess, wait_until

SLICES = 4
ROWS = 64
# Longer than a killed receiver takes to come back, so that a series is not settled while its sender is cut off.
QUIET_SECONDS = 8


@dataclass
class Outcome:
    """One row of the table."""

    fault: str
    tries: int = 0
    instances: int = 0
    series: int = 0
    lost: int = 0
    duplicated: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        return self.lost == self.duplicated == 0


def small_series(name: str) -> list[Dataset]:
    """A series of a few small slices that the tiny model classifies."""
    noise = np.random.default_rng(sum(name.encode()))
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : ROWS * 1j]
    slices = []
    for number in range(1, SLICES + 1):
        head = (x**2 + (y / 1.2) ** 2 < 0.6) * 1500 + noise.integers(0, 100, (ROWS, ROWS))
        pixels = head.astype(np.uint16).tobytes()
        ds = mr_instance(number, name, Rows=ROWS, Columns=ROWS, PixelData=pixels)
        encoded(ds)  # gives it its file meta information
        slices.append(ds)
    return slices


class Sender:
    """A modality that repeats every instance until it is acknowledged, on as many associations as it takes."""

    def __init__(self, port: int, names: Sequence[str], pause_seconds: float = 0.0) -> None:
        self._port = port
        self._names = names
        self._pause = pause_seconds
        self.acknowledged: dict[str, str] = {}  # SOP Instance UID → SHA-256 of the pixels
        self.refusals = 0

    def run(self, deadline: float) -> None:
        for name in self._names:
            waiting = small_series(name)
            while waiting and time.monotonic() < deadline:
                waiting = self._send(waiting)
                if waiting:
                    time.sleep(0.2)

    def _send(self, waiting: list[Dataset]) -> list[Dataset]:
        assoc = self._associate(waiting[0])
        if not assoc.is_established:
            return waiting
        left = list(waiting)
        for ds in waiting:
            try:
                answer = assoc.send_c_store(ds)
            except RuntimeError:  # the association was lost
                break
            if "Status" not in answer:
                break
            if answer.Status != 0x0000:
                self.refusals += 1
                break
            self.acknowledged[str(ds.SOPInstanceUID)] = hashlib.sha256(ds.PixelData).hexdigest()
            left.remove(ds)
            time.sleep(self._pause)
        if assoc.is_established:
            assoc.release()
        return left

    def _associate(self, ds: Dataset) -> Association:
        ae = AE(ae_title="MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
        return ae.associate("127.0.0.1", self._port, ae_title="AI_WORKER")


@dataclass
class Bed:
    """A worker, the PACS it reports to, and the senders of a scenario."""

    worker: WorkerProcess
    pacs: Pacs
    senders: list[Sender]
    threads: list[threading.Thread]

    @property
    def sending(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)

    @property
    def acknowledged(self) -> dict[str, str]:
        return {uid: digest for sender in self.senders for uid, digest in sender.acknowledged.items()}


@contextmanager
def bed(
    folder: Path, series: int, senders: int, seconds: float, pause: float = 0.0, **receive: object
) -> Iterator[Bed]:
    """Everything started, the senders at work."""
    bundle = folder / "bundle"
    if not bundle.exists():
        make_tiny_bundle(bundle)
    settings = {
        "worker": {"bundle": str(bundle), "lease_seconds": 5},
        "receive": {"quiet_seconds": QUIET_SECONDS, "minimum_free_bytes": 0} | receive,
    }
    with Pacs() as pacs:
        destinations = {"pacs": (pacs.ae_title, pacs.port)}
        with worker_process.running(folder / "worker", destinations=destinations, settings=settings) as worker:
            names = [f"s{number}" for number in range(series)]
            parts = [Sender(worker.port, names[index::senders], pause) for index in range(senders)]
            deadline = time.monotonic() + seconds
            threads = [threading.Thread(target=part.run, args=(deadline,), daemon=True) for part in parts]
            for thread in threads:
                thread.start()
            yield Bed(worker, pacs, parts, threads)


def check(outcome: Outcome, bed: Bed, series: int, seconds: float) -> Outcome:
    """Wait until all is answered, then count what is missing and what is there twice."""
    for thread in bed.threads:
        thread.join(seconds)
    worker = bed.worker
    unfinished = """SELECT (SELECT count(*) FROM series WHERE state = 'open')
        + (SELECT count(*) FROM job WHERE state IN ('pending', 'running'))
        + (SELECT count(*) FROM delivery WHERE state != 'delivered')"""
    try:
        wait_until(lambda: not worker.rows(unfinished)[0][0], "every series to be answered", seconds, every=1)
    except TimeoutError as error:
        outcome.notes.append(str(error))
    outcome.instances, outcome.series = len(bed.acknowledged), series
    _count_instances(outcome, bed)
    _count_reports(outcome, bed, series)
    return outcome


def _count_instances(outcome: Outcome, bed: Bed) -> None:
    rows = bed.worker.rows("SELECT sop_instance_uid, path, sha256 FROM instance")
    stored = {uid: (bed.worker.folder / "var" / path, sha256) for uid, path, sha256 in rows}
    outcome.duplicated += len(rows) - len(stored)
    for uid, digest in bed.acknowledged.items():
        path, sha256 = stored.get(uid, (None, ""))
        content = path.read_bytes() if path is not None and path.is_file() else b""
        whole = hashlib.sha256(content).hexdigest() == sha256
        if not whole or hashlib.sha256(dcmread(BytesIO(content)).PixelData).hexdigest() != digest:
            outcome.lost += 1
    files = len(list((bed.worker.folder / "var" / "instances").glob("??/*/*.dcm")))
    if files != len(rows):
        outcome.notes.append(f"{files} files for {len(rows)} rows")


def _count_reports(outcome: Outcome, bed: Bed, series: int) -> None:
    for kind in (REPORTS, PICTURES):
        studies = [
            str(dcmread(BytesIO(content), stop_before_pixels=True).StudyInstanceUID)
            for content in bed.pacs.files(kind).values()
        ]
        outcome.lost += series - len(set(studies))
        outcome.duplicated += len(studies) - len(set(studies))
    [(check_result,)] = bed.worker.rows("PRAGMA integrity_check")
    if check_result != "ok":
        outcome.notes.append(f"database: {check_result}")
        outcome.lost += 1
    [(twice,)] = bed.worker.rows(
        "SELECT count(*) FROM (SELECT series_id FROM result GROUP BY series_id HAVING count(*) > 1)"
    )
    outcome.duplicated += twice


# --- the faults ------------------------------------------------------------------------------------------------


def killed_processes(folder: Path, series: int, kills: int, seed: int = 1) -> Outcome:
    """SIGKILL of receiver, inference, sender or all at random moments."""
    outcome = Outcome("SIGKILL of receiver, inference, sender or all")
    dice = random.Random(seed)
    with bed(folder, series, 4, seconds=60 + 20 * kills, pause=0.05) as site:
        while outcome.tries < kills:
            time.sleep(dice.uniform(0.3, 2.5))
            role = dice.choice(("receive", "infer", "send", "all"))
            if role == "all":
                site.worker.kill()
                site.worker.start(120)
            elif not _kill_role(site.worker, role):
                continue
            outcome.tries += 1
        return check(outcome, site, series, 120 + 10 * kills)


def _kill_role(worker: WorkerProcess, role: str) -> bool:
    """SIGKILL to one process of that role; False when none runs just now."""
    wanted = f"--role\0{role}\0--config\0{worker.config}".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
                return True
        except (OSError, ProcessLookupError):
            continue
    return False


def misbehaving_pacs(folder: Path, series: int, rounds: int, seed: int = 2) -> Outcome:
    """The PACS refuses, aborts, answers 0xA700 and 0xC000, hangs, is down and returns."""
    outcome = Outcome("PACS refuses, aborts, 0xA700, 0xC000, hangs, is down and returns")
    dice = random.Random(seed)
    with bed(folder, series, 4, seconds=60 + 20 * rounds, quiet_seconds=1) as site:
        faults: list[Callable[[], None]] = [
            lambda: _behave(site.pacs, Behaviour.REFUSE, 0xA700),
            lambda: _behave(site.pacs, Behaviour.REFUSE, 0xC000),
            lambda: _behave(site.pacs, Behaviour.ABORT),
            lambda: _behave(site.pacs, Behaviour.SLOW),
            site.pacs.stop,
        ]
        for number in range(rounds):
            faults[number % len(faults)]()
            time.sleep(dice.uniform(1, 3))
            if number % len(faults) == len(faults) - 1:
                site.pacs.start()
            outcome.tries += 1
        _behave(site.pacs, Behaviour.ACCEPT)
        return check(outcome, site, series, 120 + 15 * rounds)


def _behave(pacs: Pacs, behaviour: Behaviour, status: int = 0xA700) -> None:
    pacs.behaviour, pacs.status, pacs.delay_seconds = behaviour, status, 1.0


def locked_database(folder: Path, series: int, seconds: float) -> Outcome:
    """Another program holds SQLite's write lock."""
    outcome = Outcome(f"SQLite locked for {seconds:g} s")
    with bed(folder, series, 4, seconds=120 + 4 * seconds, pause=0.05) as site:
        time.sleep(1)
        lock = sqlite3.connect(site.worker.folder / "var" / "worker.db", isolation_level=None, timeout=30)
        lock.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        lock.execute("ROLLBACK")
        lock.close()
        outcome.tries = 1
        return check(outcome, site, series, 180)


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
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(folder: Path, series: int) -> Outcome:
    """A small tmpfs fills to the last byte while senders push, then has room again."""
    outcome = Outcome("disk full (a small tmpfs), then space again")
    data = folder / "worker" / "var"
    with _small_disk(data), bed(folder, series, 4, seconds=240, pause=1.0, minimum_free_bytes=8 << 20) as site:
        time.sleep(1)  # the senders, a slice a second, are in the middle of their first series
        _fill(data / "filler")
        wait_until(lambda: sum(one.refusals for one in site.senders) >= 5, "0xA700 to be answered", 60)
        outcome.tries = sum(one.refusals for one in site.senders)
        halves = len(list((data / "instances" / "incoming").iterdir()))
        if halves > len(site.senders):
            outcome.notes.append(f"{halves} half files")
            outcome.lost += halves
        (data / "filler").unlink()
        return check(outcome, site, series, 180)


def _fill(filler: Path) -> None:
    """Write until there is no room for another kilobyte; SQLite's own files then cannot grow either."""
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 10):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def print_table(outcomes: Sequence[Outcome]) -> None:
    print("| fault | tries | instances acknowledged | series | lost | duplicated | notes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in outcomes:
        notes = "; ".join(one.notes)
        print(
            f"| {one.fault} | {one.tries} | {one.instances} | {one.series} | {one.lost} | {one.duplicated} | {notes} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--series", type=int, default=200)
    arguments = parser.parse_args()
    scenarios: list[Callable[[Path], Outcome]] = [
        lambda folder: killed_processes(folder, arguments.series, arguments.kills),
        lambda folder: misbehaving_pacs(folder, arguments.series, 20),
        lambda folder: locked_database(folder, arguments.series, 30),
        *([lambda folder: full_disk(folder, arguments.series)] if can_mount() else []),
    ]
    outcomes = []
    for scenario in scenarios:
        with tempfile.TemporaryDirectory(prefix="worker-soak-") as folder:
            outcomes.append(scenario(Path(folder)))
        print(outcomes[-1], file=sys.stderr)
    print_table(outcomes)
    return 0 if all(one.survived for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
