"""An inference process whose `classify` does what a codec in C can do: `python -m tests.testbed.poison URL FOLDER`.

The first file of a series says what happens: segfault, hang (with the interpreter's lock held), greedy, or good.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.testbed.instances import MODEL, classified
from tests.testbed.serving import one_model
from worker.db.engine import Database
from worker.db.results import NewObject
from worker.inference.illustrated import IllustratedResult
from worker.jobs.runner import JobRunner
from worker.logs import configure_logs
from worker.process import process_name
from worker.process_limits import limit_memory
from worker.reporting.outbox import Outbox

ATTEMPTS = 2
MORE_BYTES = 64 << 20


def classify(paths: Sequence[Path], _kinds: object) -> IllustratedResult:
    match paths[0].read_text():
        case "segfault":
            ctypes.string_at(0)
        case "hang":
            ctypes.PyDLL(None).sleep(600)
        case "greedy":
            bytearray(4 * MORE_BYTES)
    return classified()


class NoOutbox(Outbox):
    def make_objects(self, *_arguments: object) -> list[NewObject]:  # type: ignore[override]
        return []


def main(url: str, folder: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    configure_logs()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    database = Database(url)
    runner = JobRunner(
        database=database,
        data_dir=Path(folder),
        models=one_model(database, MODEL, classify, datetime.now(UTC)),
        outbox=NoOutbox(Path(folder)),
        destinations=[],
        owner=process_name(),
        clock=lambda: datetime.now(UTC),
        lease=timedelta(seconds=30),
        timeout=timedelta(seconds=3),  # a harmless job takes milliseconds
        attempts=ATTEMPTS,
    )
    limit_memory(MORE_BYTES)
    runner.run(stop)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
