"""What the defences against hostile bytes, rotten disks and slow peers cost.

    PYTHONPATH=. python benchmarks/defences.py

headers     each dataset of tests/testbed/bombs.py, from its bytes to its row or its refusal, hash included: processor
            time a byte beyond the first MiB (which costs as much as the same dataset cut there), and the memory that
            the worst of them holds, itself included, by byte. Of a deflated dataset the bytes are the inflated ones
            that are read at most
files       what comparing every file of a series with its hash takes of the job's processor time
deliveries  objects a second to DCMTK's storescp over one association, from the claim to the recorded end; one that
            sends its answers at once, and one that holds their second part back until the first is acknowledged
            (Nagle), as DCMTK does by default
"""

from __future__ import annotations

import sys
import tempfile
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import update

from benchmarks.rows import Row, arguments, at_least, at_most, finish
from benchmarks.scale import Site
from tests.testbed import bombs, dcmtk
from tests.testbed.answered import answer
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.db.tables import DeliveryRow, DeliveryState, JobRow
from worker.dicom.sources import INFLATED_BYTES
from worker.errors import RefusedInstance
from worker.jobs.bundle_store import BundleStore
from worker.jobs.model_pool import ModelPool
from worker.jobs.runner import JobRunner
from worker.logs import configure_logs
from worker.reporting.outbox import Outbox
from worker.send.destinations.c_store import CStoreDestination
from worker.send.sender import Sender
from worker.storage.acceptance import StoreRequest, instance_path, read_instance
from worker.storage.integrity import Integrity

_NS_A_BYTE, _BYTES_A_BYTE = 10.0, 3.0
_LEAST = 0.001  # a figure that is 0 has no ratio


# --- headers ----------------------------------------------------------------------------------------------------


def headers(rounds: int) -> list[Row]:
    """The time of each dataset that is larger than two MiB, and the memory of the worst."""
    times, held = [], {}
    for name in bombs.BOMBS:
        sent = bombs.request(name)
        is_deflated = sent.transfer_syntax_uid == DeflatedExplicitVRLittleEndian
        size = INFLATED_BYTES if is_deflated else len(sent.encoded)
        held[name] = (len(sent.encoded) + _peak(sent)) / size
        if size < 2 * bombs.MIB:
            continue
        whole = [_seconds(sent) for _ in range(rounds)]
        cut = replace(sent, encoded=_beginning(sent))
        first = 0.0 if is_deflated else min(_seconds(cut) for _ in range(rounds))
        nanoseconds = [max(_LEAST, 1e9 * (each - first) / (size - bombs.MIB)) for each in whole]
        times.append(at_most(name, nanoseconds, _NS_A_BYTE, "ns a byte", f"{1000 * median(whole):.0f} ms"))
    worst = max(held, key=lambda name: held[name])
    return [*times, at_most(f"memory of {len(held)} such headers", [held[worst]], _BYTES_A_BYTE, "bytes a byte", worst)]


def _beginning(sent: StoreRequest) -> bytearray:
    return bytearray(sent.encoded[: bombs.MIB])


def _seconds(sent: StoreRequest) -> float:
    begin = time.process_time()
    _read(sent)
    return time.process_time() - begin


def _peak(sent: StoreRequest) -> int:
    tracemalloc.start()
    try:
        _read(sent)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _read(sent: StoreRequest) -> None:
    with suppress(RefusedInstance):
        read_instance(sent, instance_path)


# --- files ------------------------------------------------------------------------------------------------------


class _Timed(Integrity):
    """Counts the processor time of its comparisons."""

    seconds = 0.0

    def require(self, *arguments: Any) -> None:
        begin = time.process_time()
        super().require(*arguments)
        self.seconds += time.process_time() - begin


def files(folder: Path, slices: int, series: int) -> Row:
    """The part that comparing has of the jobs of so many series; a job before them loads what is loaded once."""
    site = Site(folder)
    site.fill(series + 1, slices)
    with site.database.write() as session:
        session.execute(update(JobRow).values(not_before=datetime.now(UTC)))
    data_dir = site.settings.worker.data_dir
    models = ModelPool(site.database, BundleStore(site.settings), "bench", _now)
    timed = _Timed(site.database, data_dir, _now)
    runner = JobRunner(
        site.database, data_dir, models, Outbox(data_dir), (), "bench", _now, timedelta(minutes=10), None, 1
    )
    vars(runner)["integrity"] = timed
    shares = []
    for _ in range(series + 1):
        timed.seconds, begin = 0.0, time.process_time()
        if not runner.run_next():
            raise RuntimeError("no job")
        shares.append(100 * timed.seconds / (time.process_time() - begin))
    site.database.close()
    return at_most(f"comparing {slices} files with their hashes", shares[1:], 3.0, "% of the job")


def _now() -> datetime:
    return datetime.now(UTC)


# --- deliveries -------------------------------------------------------------------------------------------------


def deliveries(folder: Path, objects: int, rounds: int) -> list[Row]:
    """Deliver the same objects again and again, to either kind of storescp in turn."""
    database = Database(f"sqlite:///{folder / 'worker.db'}")
    migrate(database)
    for number in range(objects // 2):
        answer(database, folder, f"series {number}")
    rates: dict[bool, list[float]] = {True: [], False: []}
    sizes = [path.stat().st_size for path in (folder / "objects").rglob("*.dcm")]
    for _ in range(rounds):
        for at_once, measured in rates.items():
            with tempfile.TemporaryDirectory() as received, dcmtk.storescp(Path(received), at_once=at_once) as port:
                measured.append(_rate(database, folder, port))
    database.close()
    note = f"{objects} reports and pictures of {sum(sizes) / len(sizes) / 1000:.0f} kB"
    return [
        at_least("deliveries to storescp", rates[True], 100.0, "objects/s", note),
        at_least("deliveries to a storescp that holds back", rates[False], 100.0, "objects/s", note),
    ]


def _rate(database: Database, folder: Path, port: int) -> float:
    with database.write() as session:
        session.execute(update(DeliveryRow).values(state=DeliveryState.PENDING, attempts=0, not_before=_now()))
    destination = CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)
    destination.probe("BENCH")  # loads what is loaded once
    begin = time.perf_counter()
    sent = Sender(destination, "BENCH", database, folder, _now).send_due()
    return sent / (time.perf_counter() - begin)


def main() -> int:
    chosen = arguments(__doc__)
    configure_logs("ERROR")
    measured = headers(1 if chosen.quick else 5)
    for slices, series in ((24, 1),) if chosen.quick else ((24, 8), (200, 4)):
        with tempfile.TemporaryDirectory() as name:
            measured.append(files(Path(name), slices, series))
    with tempfile.TemporaryDirectory() as name:
        measured += deliveries(Path(name), 4 if chosen.quick else 200, 1 if chosen.quick else 5)
    finish("What the defences cost", measured, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
