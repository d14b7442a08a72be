"""Many associations at once for a long time: is everything that they take given back, and does the pace hold?"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from tests.faults import mutate
from tests.faults.bed import START_SECONDS, Outcome, process_of_role, tiny_bundle
from tests.faults.fuzz import HANG_SECONDS, memory
from tests.faults.wire import Closed, Wire
from tests.testbed import dcmtk, worker_process
from tests.testbed.instances import mr_instance, write_series
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess

SIDES = (32, 64, 128, 256, 512, 1024)  # 2 KiB to 2 MiB of pixels
_WEIGHTS = (30, 30, 20, 12, 6, 2)
_IN_AN_ASSOCIATION = (1, 5, 20, 60)
_PAUSE_SECONDS = 1.0  # of each sender between two instances, on average: 64 of them ask for 64 instances a second
_LEAK_BYTES = 96 << 20
_SLOWEST_PART = 0.5
_POOLED_FILES = 24  # the database's connections stay in their pool, up to three files each


@dataclass(frozen=True)
class Sample:
    """The receiver's process at one moment."""

    seconds: float
    stored: int
    resident: int
    files: int
    threads: int


@dataclass
class Counts:
    stored: int = 0
    refused: int = 0
    broken: int = 0
    bytes: int = 0
    acknowledged: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def many_associations(folder: Path, seconds: float, associations: int = 64, seed: int = 10) -> Outcome:
    """`associations` senders that connect, store instances of all sizes, release and connect again."""
    outcome = Outcome(f"{associations} associations at once for {seconds / 60:.3g} min, mixed sizes", seed=seed)
    settings = {
        "worker": {"bundle": str(tiny_bundle()), "lease_seconds": 5},
        "receive": {
            "quiet_seconds": 2,
            "minimum_free_bytes": 0,
            "maximum_associations": associations + 8,
            # They all come from this machine, most by one AE title.
            "maximum_associations_per_address": associations + 8,
            "maximum_associations_per_ae_title": associations + 8,
        },
        # The receiver is what is measured: every series is refused with its reason and no model is asked.
        "eligibility": {"minimum_slices": 1000},
    }
    with worker_process.running(folder / "worker", settings=settings, start_seconds=START_SECONDS) as worker:
        pid = process_of_role(worker, "receive")
        if pid is None:
            raise RuntimeError("no receiver runs")
        before = _sample(pid, 0, 0)
        counts, deadline = Counts(), time.monotonic() + seconds
        with _senders(worker, associations, counts, deadline, seed, folder):
            samples = list(_watch(pid, counts, deadline, max(1.0, seconds / 60)))
        wait_until(lambda: _sample(pid, 0, 0).threads <= before.threads + 2, "the associations' threads to end", 120)
        _judge(outcome, before, samples, _sample(pid, seconds, counts.stored))
        if process_of_role(worker, "receive") != pid:
            outcome.fault_found("the receiver died")
        _count(outcome, worker, counts)
    return outcome


@contextmanager
def _senders(
    worker: WorkerProcess, number: int, counts: Counts, deadline: float, seed: int, folder: Path
) -> Iterator[None]:
    threads = [
        threading.Thread(target=_send, args=(worker.port, index, counts, deadline, random.Random(f"{seed} {index}")))
        for index in range(number)
    ]
    if dcmtk.installed():  # one of them is a real one
        threads[-1] = threading.Thread(target=_send_with_dcmtk, args=(worker.port, counts, deadline, folder))
    for thread in threads:
        thread.daemon = True
        thread.start()
    yield
    for thread in threads:
        thread.join(HANG_SECONDS * 2)


def _send(port: int, index: int, counts: Counts, deadline: float, dice: random.Random) -> None:
    syntax = str(ExplicitVRLittleEndian)
    turn = 0
    while time.monotonic() < deadline:
        turn += 1
        try:
            with Wire(port, HANG_SECONDS) as peer:
                [context] = peer.associate([(MRImageStorage, syntax)])
                for number in range(dice.choice(_IN_AN_ASSOCIATION)):
                    side = dice.choices(SIDES, _WEIGHTS)[0]
                    pixels = np.full((side, side), index + number, np.uint16).tobytes()
                    ds = mr_instance(number + 1, f"load-{index}-{turn}", Rows=side, Columns=side, PixelData=pixels)
                    uid, content = str(ds.SOPInstanceUID), mutate.encode(ds, syntax)
                    _note(counts, uid, peer.store(context, MRImageStorage, uid, content), len(content))
                    if time.monotonic() > deadline:
                        break
                    time.sleep(dice.uniform(0, 2 * _PAUSE_SECONDS))
                peer.release()
        except (Closed, OSError) as error:
            _note_broken(counts, f"{type(error).__name__}: {error}")
            time.sleep(1)


def _note_broken(counts: Counts, why: str) -> None:
    with counts.lock:
        counts.broken += 1
    print(f"an association broke: {why}", file=sys.stderr)


def _note(counts: Counts, uid: str, status: int, size: int) -> None:
    with counts.lock:
        if status == 0:
            counts.stored += 1
            counts.bytes += size
            counts.acknowledged.add(uid)
        else:
            counts.refused += 1


def _send_with_dcmtk(port: int, counts: Counts, deadline: float, folder: Path) -> None:
    turn = 0
    while time.monotonic() < deadline:
        turn += 1
        paths = write_series(folder / "dcmtk", 10, f"dcmtk-{turn}")
        try:
            dcmtk.storescu(port, paths)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            _note_broken(counts, str(error))
        else:
            for number, path in enumerate(paths, 1):
                _note(counts, str(mr_instance(number, f"dcmtk-{turn}").SOPInstanceUID), 0, path.stat().st_size)
        for path in paths:
            path.unlink()
        time.sleep(1)


def _sample(pid: int, seconds: float, stored: int) -> Sample:
    process = Path(f"/proc/{pid}")
    files, threads = len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
    return Sample(seconds, stored, memory(pid)[0], files, threads)


def _watch(pid: int, counts: Counts, deadline: float, every: float) -> Iterator[Sample]:
    start = time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(every)
        yield _sample(pid, time.monotonic() - start, counts.stored)


def _judge(outcome: Outcome, before: Sample, samples: list[Sample], after: Sample) -> None:
    """No more memory, files and threads than at the start, and no part of the time much slower than another."""
    settled = samples[len(samples) // 3 :]  # the first third fills caches and pools
    growth = settled[-1].resident - settled[0].resident
    resident = [one.resident >> 20 for one in (settled[0], settled[len(settled) // 2], settled[-1])]
    outcome.measured.append(
        f"receiver {before.resident >> 20} MiB before, {resident[0]} after a third, {resident[1]} after two, "
        f"{resident[2]} at its end; files {before.files} before, {after.files} after; "
        f"threads {before.threads} before, {max(one.threads for one in samples)} at most, {after.threads} after"
    )
    if growth > _LEAK_BYTES:
        outcome.fault_found(f"memory grew by {growth >> 20} MiB in the last two thirds")
    if after.files > before.files + _POOLED_FILES:
        outcome.fault_found(f"{after.files - before.files} files are still open")
    thirds = [samples[index] for index in (len(samples) // 3, 2 * len(samples) // 3, len(samples) - 1)]
    starts = [Sample(0, 0, 0, 0, 0), *thirds[:2]]
    paces = [
        (end.stored - start.stored) / max(end.seconds - start.seconds, 0.1)
        for start, end in zip(starts, thirds, strict=True)
    ]
    outcome.measured.append("instances a second in each third: " + ", ".join(f"{pace:.1f}" for pace in paces))
    if len(samples) >= 30 and min(paces) < _SLOWEST_PART * max(paces):
        outcome.fault_found("the pace did not hold")


def _count(outcome: Outcome, worker: WorkerProcess, counts: Counts) -> None:
    outcome.tries = counts.stored + counts.refused + counts.broken
    outcome.survived = counts.stored
    outcome.instances = len(counts.acknowledged)
    outcome.measured.append(f"{counts.bytes >> 20} MiB, {counts.refused} refused, {counts.broken} associations broken")
    rows = worker.rows("SELECT sop_instance_uid, path, size FROM instance")
    kept = {uid for uid, path, size in rows if (worker.data / path).stat().st_size == size}
    outcome.lost = len(counts.acknowledged - kept)
    outcome.duplicated = len(rows) - len({uid for uid, _, _ in rows})
    unsettled = "SELECT count(*) FROM series WHERE state = 'open'"
    wait_until(lambda: worker.rows(unsettled)[0][0] == 0, "every series to settle", 300, every=1)
    [(outcome.series,)] = worker.rows("SELECT count(*) FROM series")
