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
from typing import cast

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from worker.db.engine import Database
from worker.db.tables import (
    AssociationRow,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JobState,
    SeriesRow,
    SeriesState,
)
from worker.logs import fault_fields, get_log

_LOOK_SECONDS = 1.0
_ASK_EVERY = 5  # looks: how often the database is asked
STEP = timedelta(seconds=60)  # a smaller one back is waited for
_AHEAD = 1.0  # seconds between two looks that no drift explains
_LONGEST_LEASE = timedelta(minutes=15)


class Clock:
    """Call it for the time. `start` keeps it true and notices when it is set, until the process ends.

    `takes_along`: the one process of a host with SQLite that images arrive in, and that settles their series.
    """

    def __init__(self, database: Database, takes_along: bool = False) -> None:
        self._database, self._takes_along = database, takes_along
        self._shared = database.engine.dialect.name != "sqlite"
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
                take_along(session, timedelta(seconds=step))
                self._ahead = own
        self._ahead = own
        if step < -STEP.total_seconds():
            self._bring_back()

    def _ask(self) -> None:
        started = time.monotonic()
        with self._database.engine.connect() as connection:
            answer: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        ahead = answer.timestamp() - (started + time.monotonic()) / 2
        step, self._ahead = ahead - self._ahead, ahead
        if step < -STEP.total_seconds():
            self._bring_back()

    def _bring_back(self) -> None:
        with self._database.write() as session:
            bring_back(session, self())


def _own_ahead() -> float:
    """Seconds of this host's clock ahead of its monotonic one, which is never set."""
    return time.time() - time.monotonic()


def bring_back(session: Session, now: datetime) -> None:
    """Times that lie further ahead than anything waits are of a clock that has been set back: they become now."""
    ahead, long_ahead = now + STEP, now + _LONGEST_LEASE
    for table, column, state in (
        (JobRow, JobRow.not_before, JobRow.state == JobState.PENDING),
        (DeliveryRow, DeliveryRow.not_before, DeliveryRow.state == DeliveryState.PENDING),
        (SeriesRow, SeriesRow.last_received_at, SeriesRow.state == SeriesState.OPEN),
    ):
        session.execute(update(table).where(state, column > ahead).values({column: now}))
    session.execute(update(AssociationRow).where(AssociationRow.closed_at > ahead).values(closed_at=now))
    for leases in (JobRow, DeliveryRow):
        session.execute(update(leases).where(leases.lease_until > long_ahead).values(lease_until=now))
    session.execute(update(DeliveryRow).where(DeliveryRow.ask_again_at > long_ahead).values(ask_again_at=now))


def take_along(session: Session, step: timedelta) -> None:
    """After the clock was set ahead: no open series has been silent, no association over, for longer than before."""
    open_series = SeriesRow.state == SeriesState.OPEN
    for series in session.scalars(select(SeriesRow).where(open_series)):
        series.last_received_at += step
        if series.counted_at is not None:
            series.counted_at += step
    brought = (
        select(InstanceRow.association_id).join(SeriesRow, SeriesRow.id == InstanceRow.series_id).where(open_series)
    )
    ended = AssociationRow.closed_at.is_not(None)
    for association in session.scalars(select(AssociationRow).where(ended, AssociationRow.id.in_(brought))):
        association.closed_at = cast(datetime, association.closed_at) + step
