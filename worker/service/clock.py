"""What time it is, for leases and waits that several processes and hosts share.

With PostgreSQL the database's clock is the referee: hosts whose clocks differ, or jump, agree on when a lease ends.
With SQLite there is one host and its own clock, followed from second to second. One that is set back would leave times
in the database that come only much later; they are brought back, so that nothing waits for them. One that is set ahead
would make a series whose images are still coming look long silent; the times it is judged by are taken along.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from worker.db.clock_changes import STEP, reset_future_times, shift_arrival_times
from worker.db.engine import Database
from worker.logs import fault_fields, get_log

_LOOK_SECONDS = 1.0
_ASK_EVERY = 5  # looks: how often the database is asked
_AHEAD = 1.0  # seconds between two looks that no drift explains


class Clock:
    """Call it for the time. `start` keeps it true and notices when it is set, until the process ends.

    `takes_along`: the one process of a host with SQLite that images arrive in, and that settles their series.
    """

    def __init__(self, database: Database, takes_along: bool = False) -> None:
        self._database, self._takes_along = database, takes_along
        self._shared = database.is_shared
        self._listeners: list[Callable[[], None]] = []
        self._own = _own_ahead()
        self._ahead = self._own

    def __call__(self) -> datetime:
        """The time, aware, UTC; never waits for the database."""
        return datetime.fromtimestamp(time.monotonic() + self._ahead, UTC)

    def when_set_back(self, listener: Callable[[], None]) -> None:
        """Call `listener` after this host's own clock was set back."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Ask the database once, then look after the clock in a thread. A database that is away is asked again."""
        if self._shared:
            self._guarded(self._ask)
        threading.Thread(target=self._look, name="clock", daemon=True).start()

    def _look(self) -> None:
        looks = 0
        while True:
            time.sleep(_LOOK_SECONDS)
            looks += 1
            self._guarded(self._look_at_own)
            if self._shared and looks % _ASK_EVERY == 0:
                self._guarded(self._ask)

    def _guarded(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception as error:  # a thread's boundary; the next look tries again
            get_log().warning("clock not looked after", **fault_fields(error))

    def _look_at_own(self) -> None:
        own = _own_ahead()
        step = own - self._own
        if abs(step) > STEP.total_seconds():
            get_log().warning("the clock of this host was set", by_seconds=round(step))
        if step < -STEP.total_seconds():
            for listener in self._listeners:
                listener()
        if not self._shared:
            self._follow(own, step)
        self._own = own  # last: a look that failed is made again

    def _follow(self, own: float, step: float) -> None:
        if step > _AHEAD and self._takes_along:
            # One transaction with all that read the time in theirs: an arrival is written before and taken along, or
            # after and by the new time.
            with self._database.write() as session:
                shift_arrival_times(session, timedelta(seconds=step))
                self._ahead = own
        self._ahead = own
        if step < -STEP.total_seconds():
            self._bring_back()

    def _ask(self) -> None:
        started = time.monotonic()
        ahead = self._database.server_time().timestamp() - (started + time.monotonic()) / 2
        step, self._ahead = ahead - self._ahead, ahead
        if step < -STEP.total_seconds():
            self._bring_back()

    def _bring_back(self) -> None:
        with self._database.write() as session:
            reset_future_times(session, self())


def _own_ahead() -> float:
    """Seconds of this host's clock ahead of its monotonic one, which is never set."""
    return time.time() - time.monotonic()
