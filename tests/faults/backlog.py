"""A destination that returns to a backlog of deliveries: how long a new report waits, and how fast the backlog goes."""

from __future__ import annotations

import time
from pathlib import Path

from tests.faults.bed import START_SECONDS, Outcome, tiny_bundle
from tests.testbed.answered import answer
from tests.testbed.databases import make_tables
from tests.testbed.pacs import Pacs
from tests.testbed.waiting import patience, wait_until
from tests.testbed.worker_process import WorkerProcess
from worker.db.engine import Database

_OUTAGE_SECONDS = 3.0
_BEGUN = 16  # objects of the backlog that have arrived when the new report is made
_AHEAD = 128  # objects that may arrive before a new report: two batches, and what a busy machine adds
_OBJECTS = 2  # of a result: report and picture


def pending_backlog(folder: Path, deliveries: int, new_reports: int = 1) -> Outcome:
    """So many deliveries wait at a start; the destination returns, and new reports are made while they are sent."""
    results = max(1, deliveries // _OBJECTS)
    outcome = Outcome(f"{results * _OBJECTS} deliveries wait, the destination returns, {new_reports} new report(s)")
    pacs = Pacs()
    worker = WorkerProcess(
        folder / "worker", destinations={"pacs": (pacs.ae_title, pacs.port)},
        settings={"worker": {"bundle": str(tiny_bundle()), "lease_seconds": 5}, "receive": {"minimum_free_bytes": 0}},
    )  # fmt: skip
    worker.data.mkdir(parents=True)
    database = Database(f"sqlite:///{worker.data / 'worker.db'}")
    make_tables(database)
    made = {new.sop_instance_uid for number in range(results) for new in answer(database, worker.data, f"old{number}")}
    waits: list[tuple[float, int]] = []
    try:
        worker.start(START_SECONDS)
        time.sleep(_OUTAGE_SECONDS)
        pacs.start()
        start = time.monotonic()
        wait_until(lambda: len(pacs.stored) >= _BEGUN, "the backlog to be sent", patience(120), every=0.005)
        for number in range(new_reports):
            report, picture = answer(database, worker.data, f"new{number}")
            committed, before = time.monotonic(), pacs.receipts.total()
            made |= {report.sop_instance_uid, picture.sop_instance_uid}
            wait_until(
                lambda uid=report.sop_instance_uid: uid in pacs.stored,  # type: ignore[misc]
                "the new report", patience(60 + deliveries / 10), every=0.005,
            )  # fmt: skip
            waits.append((time.monotonic() - committed, pacs.receipts.total() - before - 1))
        open_ = "SELECT count(*) FROM delivery WHERE state != 'delivered'"
        wait_until(
            lambda: worker.rows(open_)[0][0] == 0, "the end of the backlog", patience(120 + deliveries / 10), every=0.1
        )
        seconds = time.monotonic() - start
        worker.require_alive()
    finally:
        worker.kill()
        pacs.stop()
        database.close()
    longest, ahead = max(waits)[0], max(number for _, number in waits)
    outcome.measured.append(
        f"a new report arrived {longest:.2f} s after it was made, {ahead} objects before it, at most; "
        f"{len(made) / seconds:.0f} objects a second"
    )
    outcome.tries = outcome.survived = len(made)
    outcome.series = results + new_reports
    outcome.lost = len(made - set(pacs.stored))
    outcome.duplicated = pacs.receipts.total() - len(pacs.stored)
    if ahead > _AHEAD:
        outcome.fault_found(f"{ahead} objects arrived before a new report")
    return outcome
