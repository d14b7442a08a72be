"""The heartbeat of a process: a thread that records that the process lives, and how long its stages took."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from worker.db.engine import Database, Session
from worker.db.processes import add_stage_times, beat, remove_process
from worker.logs import fault_fields, get_log
from worker.process import process_name
from worker.stage_times import STAGE_TIMES


@contextmanager
def beating(
    database: Database,
    role: str,
    lease: timedelta,
    clock: Callable[[], datetime],
    is_steady: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Record that this process is ready, and three times per lease that it works; remove its row at the end.

    Nothing is recorded while a part of it hangs, which `is_steady` tells.
    """
    started, done = clock(), threading.Event()

    def beat_guarded() -> None:
        try:
            with _stage_times_added(database) as session:
                beat(session, process_name(), role, started, clock())
        except Exception as error:  # a thread's boundary; the next beat tries again
            get_log().warning("heartbeat not written", **fault_fields(error))

    def beat_until_done() -> None:
        while not done.wait(lease.total_seconds() / 3):
            if is_steady():
                beat_guarded()

    beat_guarded()
    thread = threading.Thread(target=beat_until_done, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        try:
            with _stage_times_added(database) as session:
                remove_process(session, process_name())
        except Exception as error:  # the dead process's row is recognised by its process number, and by its silence
            get_log().warning("heartbeat not removed", **fault_fields(error))


@contextmanager
def _stage_times_added(database: Database) -> Iterator[Session]:
    """A transaction that also adds the stage times of this process, which are counted again if it fails."""
    counts = STAGE_TIMES.take()
    try:
        with database.write() as session:
            yield session
            add_stage_times(session, counts)
    except BaseException:
        STAGE_TIMES.give_back(counts)
        raise
