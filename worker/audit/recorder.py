"""Writes audit events to the trail and anchors its head in the database (docs/decisions/0005).

`record` never raises and waits for no disk and no database: the line is handed to the operating system at once,
fsynced and anchored by a thread within a second. What cannot be written is kept in memory, tried again each second, and
said in the log and by /health; no image is refused for it.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from worker.audit.messages import AuditEvent, encode
from worker.audit.syslog import Forwarder
from worker.audit.trail import Trail, TrailHead, file_name
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AuditChainRow
from worker.logs import get_log

TRAIL_BROKEN = "trail-broken"
NOT_WRITABLE = "not-writable"
_TICK_SECONDS = 1.0
_KEPT_IN_MEMORY = 10_000
_PERSON = 1  # ParticipantObjectTypeCode


def host_name(settings: Settings) -> str:
    """The name of this host's trail, and the AuditSourceID of its messages."""
    return file_name(settings.audit.source or socket.gethostname())


def trail_of(settings: Settings, host: str | None = None) -> Trail:
    return Trail(settings.audit_dir, host or host_name(settings), settings.audit.maximum_file_bytes)


class Recorder:
    """Takes events from every thread of a process. `start` and `close` it; without `start`, `close` does the work."""

    def __init__(self, settings: Settings, database: Database, clock: Callable[[], datetime]) -> None:
        self._host = host_name(settings)
        self._trail = trail_of(settings)
        self._patient_ids = settings.audit.patient_ids
        self._database = database
        self._clock = clock
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._unanchored = False
        self._unwritable = False
        self._broken = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._forwarder = Forwarder(settings.audit, self._trail) if settings.audit.syslog_host else None

    def record(self, event: AuditEvent) -> None:
        """Keep an event; a patient's identifier only where `[audit] patient_ids` allows it."""
        if not self._patient_ids:
            event = dataclasses.replace(event, subjects=tuple(o for o in event.subjects if o.type_code != _PERSON))
        with self._lock:
            if len(self._waiting) >= _KEPT_IN_MEMORY:
                self._lost += 1
                return
            self._waiting.append(encode(event, self._clock(), self._host))
            self._write()

    def start(self) -> None:
        self._unanchored = True  # look at once whether the trail is still the one that the database knows
        self._threads = [threading.Thread(target=self._run, name="audit", daemon=True)]
        if self._forwarder is not None:
            self._threads.append(
                threading.Thread(target=self._forwarder.run, args=(self._stop,), name="audit-syslog", daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """What was recorded is on disk and anchored afterwards, or the log says what is lost."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.settle()
        if self._waiting or self._lost:
            get_log().error("audit events lost", events=len(self._waiting) + self._lost)

    def settle(self) -> None:
        """Write what waits, fsync, anchor."""
        with self._lock:
            self._write()
            if not (self._unanchored or self._unwritable or self._broken):
                return
            self._unanchored = False
        head: TrailHead | None = None
        try:
            head = self._trail.sync()
        except OSError as error:
            self._say_unwritable(error)
        else:
            with self._lock:  # an event that another thread is writing just now waits for nothing
                self._unwritable = bool(self._waiting)
        try:
            self._anchor(head)
        except SQLAlchemyError as error:
            self._unanchored = True
            get_log().warning("audit head not anchored", fault=type(error).__name__)

    def _run(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            self.settle()

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            self._trail.append(list(self._waiting))
        except OSError as error:
            self._say_unwritable(error)
            return
        if self._unwritable:
            get_log().info("audit written again", events=len(self._waiting), lost=self._lost)
        self._waiting.clear()
        self._unanchored = True

    def _say_unwritable(self, error: OSError) -> None:
        if not self._unwritable:
            get_log().error("audit not written", error_number=error.errno)
        self._unwritable = True

    def _anchor(self, head: TrailHead | None) -> None:
        """The database's head moves on only along the trail that it knows; else it stays, and the fault is shown."""
        with self._database.read() as session:
            known = anchored_head(session, self._host)
        if head is not None:
            broken = known is not None and not self._trail.contains(known)
            if broken and not self._broken:
                get_log().error("audit trail broken", detail="the head that the database knows is not in it")
            self._broken = broken
        fault = TRAIL_BROKEN if self._broken else NOT_WRITABLE if self._unwritable else None
        with self._database.write() as session:
            move_anchor(session, self._host, known, None if self._broken else head, fault, self._clock())


@contextmanager
def recording(
    settings: Settings, database: Database, clock: Callable[[], datetime]
) -> Iterator[Callable[[AuditEvent], None]]:
    """A Record for a command: settled at the end."""
    recorder = Recorder(settings, database, clock)
    try:
        yield recorder.record
    finally:
        recorder.close()


# --- the anchor ------------------------------------------------------------------------------------------------


def anchored_head(session: Session, host: str) -> TrailHead | None:
    """The head of a host's trail as the database knows it."""
    row = session.get(AuditChainRow, host)
    return TrailHead(row.records, row.sha256) if row is not None and row.records else None


def move_anchor(
    session: Session, host: str, known: TrailHead | None, head: TrailHead | None, fault: str | None, now: datetime
) -> None:
    """Put `head` in the place of `known`, unless another process moved it meanwhile; record the fault in any case."""
    row = session.get(AuditChainRow, host, with_for_update=True)
    if row is None:
        row = AuditChainRow(host=host, records=0, sha256="", anchored_at=now)
        session.add(row)
    row.fault = fault
    unmoved = (TrailHead(row.records, row.sha256) if row.records else None) == known
    if head is not None and unmoved and head.number > row.records:
        row.records, row.sha256, row.anchored_at = head.number, head.sha256, now
    session.flush()


def accept_head(session: Session, host: str, head: TrailHead, now: datetime) -> None:
    """A person looked into a broken trail and takes it, as it is, for the one that is known."""
    values = {"records": head.number, "sha256": head.sha256, "anchored_at": now, "fault": None}
    session.execute(update(AuditChainRow).where(AuditChainRow.host == host).values(**values))


def audit_faults(session: Session) -> list[str]:
    """What is wrong with the audit trails, a sentence each; for /health."""
    rows = session.scalars(select(AuditChainRow).where(AuditChainRow.fault.is_not(None)).order_by(AuditChainRow.host))
    return [f"{row.fault} on {row.host}" for row in rows]
