"""Rows of processes: each process records that it lives, so that every host can show what runs on all hosts.

With that it records how long the stages of its work took (`worker.stage_times`).

A process is lost when it has been silent for a lease, or when it ran on this host and has ended; others take its jobs.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from worker import __version__
from worker.db.engine import upsert
from worker.db.tables import ProcessRow, StageTimeRow
from worker.process import is_dead
from worker.stage_times import StageCount, StageKey

FETCH = "fetch"  # beside the roles of worker.process: the command that stores what a PACS sends it by C-GET
FORGOTTEN_AFTER = timedelta(days=1)  # how long a vanished host stays listed as lost


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process that has recorded itself; `lost` when it is silent now."""

    role: str
    name: str
    host: str
    version: str
    started_at: datetime
    seen_at: datetime
    lost: bool


def list_processes(session: Session, now: datetime, lease: timedelta) -> list[ProcessStatus]:
    """All processes that were seen within a day, by role and name, except processes of this host that have ended.

    A command that no longer beats has ended; it is not listed as lost.
    """
    here = socket.gethostname()
    rows = session.scalars(
        select(ProcessRow).where(ProcessRow.seen_at > now - FORGOTTEN_AFTER).order_by(ProcessRow.role, ProcessRow.name)
    )
    return [
        ProcessStatus(
            row.role, row.name, row.host, row.version, row.started_at, row.seen_at, row.seen_at <= now - lease
        )
        for row in rows
        if not is_dead(row.name, here) and not (row.role == FETCH and row.seen_at <= now - lease)
    ]


def beat(session: Session, name: str, role: str, started: datetime, now: datetime) -> None:
    """Record that a process lives; its first beat removes the rows of processes that ended before it."""
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
    gone = [
        row.id for row in rows if row.name == name or row.seen_at <= now - FORGOTTEN_AFTER or is_dead(row.name, here)
    ]
    session.execute(delete(ProcessRow).where(ProcessRow.id.in_(gone)))
    host, _, pid = name.partition(":")
    session.add(
        ProcessRow(name=name, host=host, pid=int(pid), role=role, version=__version__, started_at=started, seen_at=now)
    )
    session.flush()


def remove_process(session: Session, name: str) -> None:
    """Remove the row of a process that ends."""
    session.execute(delete(ProcessRow).where(ProcessRow.name == name))


def is_lost(session: Session, name: str, now: datetime, lease: timedelta) -> bool:
    """True for a process that has ended on this host, or is remote and silent for one lease period."""
    host = name.partition(":")[0]
    if host == socket.gethostname():
        return is_dead(name, host)
    seen = session.scalar(select(ProcessRow.seen_at).where(ProcessRow.name == name))
    return seen is None or seen <= now - lease


def add_stage_times(session: Session, counts: Mapping[StageKey, StageCount]) -> None:
    """Add counts to those of all processes."""
    if not counts:
        return
    connection = session.connection()
    row = upsert(connection)(StageTimeRow)
    added = {name: getattr(StageTimeRow, name) + row.excluded[name] for name in ("number", "seconds")}
    statement = row.on_conflict_do_update(index_elements=["work", "stage", "bound"], set_=added)
    # Sorted, so that two processes lock rows in the same order.
    connection.execute(statement, [key._asdict() | counts[key]._asdict() for key in sorted(counts)])


def stage_times(session: Session) -> dict[StageKey, StageCount]:
    """The counts of all processes since the database was created."""
    columns = (StageTimeRow.work, StageTimeRow.stage, StageTimeRow.bound, StageTimeRow.number, StageTimeRow.seconds)
    return {StageKey(*row[:3]): StageCount(*row[3:]) for row in session.execute(select(*columns))}
