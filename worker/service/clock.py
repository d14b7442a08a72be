"""The time, for leases and waits that several processes and hosts share.

With PostgreSQL the database server's clock is authoritative: hosts whose clocks differ, or jump, agree on when a lease
ends. With SQLite there is a single host, whose clock is checked every second. If it is set back, times in the database
would lie far in the future: they are reset, so that nothing waits for them. If it is set ahead, a series whose images
are still arriving would appear silent: its arrival times are shifted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from worker.db.engine import Database
from worker.db.operating.clock_changes import STEP, reset_future_times, shift_arrival_times
from worker.logs import fault_fields, get_log

_CHECK_SECONDS = 1.0
_ASK_EVERY = 5  # checks: how often the database server is asked for its time
_AHEAD = 1.0  # seconds between two checks that drift does not explain


class Clock:
    """Call it for the time. `start` keeps it correct, and detects changes of the clock, until the process ends.

    `shifts_arrivals`: set in the receiving process, in which images arrive and settle; it applies to SQLite only.
    """

    def __init__(self, database: Database, shifts_arrivals: bool = False) -> None:
        self._database, self._shifts_arrivals = database, shifts_arrivals
        self._shared = database.is_shared
        self._listeners: list[Callable[[], None]] = []
        self._own = _own_ahead()
        self._ahead = self._own

    def __call__(self) -> datetime:
        """The time, aware, UTC; does not wait for the database."""
        return datetime.fromtimestamp(time.monotonic() + self._ahead, UTC)

    def when_set_back(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever this host's own clock was set back."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Ask the database once, then check the clock in a thread. An unreachable database is asked again."""
        if self._shared:
            self._guarded(self._ask_database)
        threading.Thread(target=self._check_regularly, name="clock", daemon=True).start()

    def _check_regularly(self) -> None:
        checks = 0
        while True:
            time.sleep(_CHECK_SECONDS)
            checks += 1
            self._guarded(self._check_own)
            if self._shared and checks % _ASK_EVERY == 0:
                self._guarded(self._ask_database)

    def _guarded(self, check: Callable[[], None]) -> None:
        try:
            check()
        except Exception as error:  # a thread's boundary; the next check tries again
            get_log().warning("clock check failed", **fault_fields(error))

    def _check_own(self) -> None:
        own = _own_ahead()
        step = own - self._own
        if abs(step) > STEP.total_seconds():
            get_log().warning("the clock of this host was set", by_seconds=round(step))
        if step < -STEP.total_seconds():
            for listener in self._listeners:
                listener()
        if not self._shared:
            self._follow(own, step)
        self._own = own  # last: a check that failed is repeated

    def _follow(self, own: float, step: float) -> None:
        if step > _AHEAD and self._shifts_arrivals:
            # Serialised with every transaction that reads the time: an arrival is written before and shifted, or
            # written after with the new time.
            with self._database.write() as session:
                shift_arrival_times(session, timedelta(seconds=step))
                self._ahead = own
        self._ahead = own
        if step < -STEP.total_seconds():
            self._reset_future_times()

    def _ask_database(self) -> None:
        started = time.monotonic()
        ahead = self._database.server_time().timestamp() - (started + time.monotonic()) / 2
        step, self._ahead = ahead - self._ahead, ahead
        if step < -STEP.total_seconds():
            self._reset_future_times()

    def _reset_future_times(self) -> None:
        with self._database.write() as session:
            reset_future_times(session, self())


def _own_ahead() -> float:
    """Seconds by which this host's clock is ahead of its monotonic clock, which nobody can set."""
    return time.time() - time.monotonic()
