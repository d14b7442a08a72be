"""Who is alive: every process says so in the database, so that any machine can tell what runs on all of them.

A process is lost when it has been silent for a lease, or when it ran on this host and has ended; others take its jobs.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from worker import __version__
from worker.db.engine import Database
from worker.db.tables import ProcessRow
from worker.logs import fault_fields, get_log
from worker.process import Role, is_dead, process_name

FORGOTTEN = timedelta(days=1)  # a host that has gone for good is shown as lost so long


@dataclass(frozen=True, slots=True)
class Alive:
    """A process that has told of itself; `lost` when it is silent now."""

    role: str
    name: str
    host: str
    version: str
    started_at: datetime
    seen_at: datetime
    lost: bool


def processes(session: Session, now: datetime, lease: timedelta) -> list[Alive]:
    """Every process that was seen within a day, by role and name, without those of this host that have ended."""
    here = socket.gethostname()
    rows = session.scalars(
        select(ProcessRow).where(ProcessRow.seen_at > now - FORGOTTEN).order_by(ProcessRow.role, ProcessRow.name)
    )
    return [
        Alive(row.role, row.name, row.host, row.version, row.started_at, row.seen_at, row.seen_at <= now - lease)
        for row in rows
        if not is_dead(row.name, here)
    ]


@contextmanager
def beating(database: Database, role: Role, lease: timedelta, clock: Callable[[], datetime]) -> Iterator[None]:
    """Say that this process is ready, and again three times a lease; at the end its row is removed."""
    started, done = clock(), threading.Event()

    def beat_guarded() -> None:
        try:
            with database.write() as session:
                beat(session, process_name(), role, started, clock())
        except Exception as error:  # a thread's boundary; the next beat tries again
            get_log().warning("heartbeat not written", **fault_fields(error))

    def go_on() -> None:
        while not done.wait(lease.total_seconds() / 3):
            beat_guarded()

    beat_guarded()
    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        try:
            with database.write() as session:
                session.execute(delete(ProcessRow).where(ProcessRow.name == process_name()))
        except Exception as error:  # the row is told from a living process by its number, and by its silence
            get_log().warning("heartbeat not removed", **fault_fields(error))


def beat(session: Session, name: str, role: Role, started: datetime, now: datetime) -> None:
    """Record that a process lives; at its first beat the rows of what ended before it are removed."""
    known = session.execute(
        update(ProcessRow)
        .where(ProcessRow.name == name, ProcessRow.started_at == started)
        .values(seen_at=now)
        .returning(ProcessRow.id)
    )
    if known.first() is not None:
        return
    here = socket.gethostname()
    rows = session.scalars(select(ProcessRow)).all()
    gone = [row.id for row in rows if row.name == name or row.seen_at <= now - FORGOTTEN or is_dead(row.name, here)]
    session.execute(delete(ProcessRow).where(ProcessRow.id.in_(gone)))
    host, _, pid = name.partition(":")
    session.add(
        ProcessRow(name=name, host=host, pid=int(pid), role=role, version=__version__, started_at=started, seen_at=now)
    )
    session.flush()


def is_lost(session: Session, name: str, now: datetime, lease: timedelta) -> bool:
    """True for a process that has ended on this host, or of which another host has told nothing for a lease."""
    host = name.partition(":")[0]
    if host == socket.gethostname():
        return is_dead(name, host)
    seen = session.scalar(select(ProcessRow.seen_at).where(ProcessRow.name == name))
    return seen is None or seen <= now - lease
