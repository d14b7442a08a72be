"""Write audit events to the trail and anchor its head in the database (docs/decisions/0005).

`record` never raises and never waits for the disk or the database: the line is passed to the operating system at once
and fsynced and anchored by a thread within a second. Events that cannot be written stay in memory and are retried every
second; the log and /health report it, and no image is refused because of it.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from worker.audit.messages import AuditEvent, encode
from worker.audit.repeats import Repeats
from worker.audit.trail import Trail, TrailHead, file_name
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AuditChainRow
from worker.logs import fault_fields, get_log

if TYPE_CHECKING:
    from worker.audit.syslog import Forwarder

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
    """Records events from every thread of a process. Without `start`, `close` writes and anchors them."""

    def __init__(self, settings: Settings, database: Database, clock: Callable[[], datetime]) -> None:
        self._host = host_name(settings)
        self._trail = trail_of(settings)
        self._patient_ids = settings.audit.patient_ids
        self._database = database
        self._clock = clock
        self._waiting: deque[str] = deque()
        self._repeats = Repeats()
        self._lost = 0
        self._unanchored = False
        self._unwritable = False
        self._broken = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._forwarder = _forwarder(settings, self._trail) if settings.audit.syslog_host else None

    def record(self, event: AuditEvent) -> None:
        """Record an event; a patient's identifier only where `[audit] patient_ids` allows it."""
        if not self._patient_ids:
            subjects = tuple(subject for subject in event.subjects if subject.type_code != _PERSON)
            event = dataclasses.replace(event, subjects=subjects)
        with self._lock:
            if self._repeats.admits(event):
                self._add(event)
                self._write()

    def start(self) -> None:
        self._unanchored = True  # check at once that the trail still holds the head that the database knows
        self._threads = [threading.Thread(target=self._run, name="audit", daemon=True)]
        if self._forwarder is not None:
            self._threads.append(
                threading.Thread(target=self._forwarder.run, args=(self._stop,), name="audit-syslog", daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Write and anchor all recorded events; those that cannot be written are lost and counted in the log."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.settle(at_once=True)
        if self._waiting or self._lost:
            get_log().error("audit events lost", events=len(self._waiting) + self._lost)

    def settle(self, at_once: bool = False) -> None:
        """Write waiting events and counts of repeated ones, those too whose minute is not over where `at_once`."""
        with self._lock:
            for event in self._repeats.due(at_once):
                self._add(event)
            self._write()
            if not (self._unanchored or self._unwritable or self._broken):
                return
            self._unanchored = False
        head: TrailHead | None = None
        try:
            head = self._trail.sync()
        except OSError as error:
            self._report_unwritable(error)
        else:
            with self._lock:  # an event that another thread is writing at this moment does not count as waiting
                self._unwritable = bool(self._waiting)
        try:
            self._anchor(head)
        except SQLAlchemyError as error:
            self._unanchored = True
            get_log().warning("audit head not anchored", fault=type(error).__name__)

    def _run(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            try:
                self.settle()
            except Exception as error:  # a thread's boundary: without it nothing would be anchored any more
                self._unanchored = True
                get_log().error("audit not settled", **fault_fields(error))

    def _add(self, event: AuditEvent) -> None:
        if len(self._waiting) >= _KEPT_IN_MEMORY:
            self._lost += 1
            return
        self._waiting.append(encode(event, self._clock(), self._host))

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            self._trail.append(list(self._waiting))
        except OSError as error:
            self._report_unwritable(error)
            return
        if self._unwritable:
            get_log().info("audit written again", events=len(self._waiting), lost=self._lost)
        self._waiting.clear()
        self._unanchored = True

    def _report_unwritable(self, error: OSError) -> None:
        if not self._unwritable:
            get_log().error("audit not written", error_number=error.errno)
        self._unwritable = True

    def _anchor(self, head: TrailHead | None) -> None:
        """Advance the database's head only if the trail holds the head that it knows; otherwise record the fault."""
        with self._database.read() as session:
            known = anchored_head(session, self._host)
        if head is not None:
            broken = known is not None and not self._trail.contains(known)
            if broken and not self._broken:
                get_log().error("audit trail broken", detail="the head that the database knows is not in the trail")
            self._broken = broken
        fault = TRAIL_BROKEN if self._broken else NOT_WRITABLE if self._unwritable else None
        with self._database.write() as session:
            move_anchor(session, self._host, known, None if self._broken else head, fault, self._clock())


def _forwarder(settings: Settings, trail: Trail) -> Forwarder:
    from worker.audit.syslog import Forwarder  # imports ssl, which few commands need

    return Forwarder(settings.audit, trail)


@contextmanager
def recording(
    settings: Settings, database: Database, clock: Callable[[], datetime]
) -> Iterator[Callable[[AuditEvent], None]]:
    """The RecordEvent of a command; its events are written and anchored at the end."""
    recorder = Recorder(settings, database, clock)
    try:
        yield recorder.record
    finally:
        recorder.close()


# --- the anchor ------------------------------------------------------------------------------------------------


def anchored_head(session: Session, host: str) -> TrailHead | None:
    """The head of a host's trail that the database knows."""
    row = session.get(AuditChainRow, host)
    return TrailHead(row.records, row.sha256) if row is not None and row.records else None


def move_anchor(
    session: Session, host: str, known: TrailHead | None, head: TrailHead | None, fault: str | None, now: datetime
) -> None:
    """Replace `known` by `head` unless another process moved the anchor meanwhile; record the fault in any case."""
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
    """Anchor a broken trail as it is, after a person has examined it."""
    values = {"records": head.number, "sha256": head.sha256, "anchored_at": now, "fault": None}
    session.execute(update(AuditChainRow).where(AuditChainRow.host == host).values(**values))


def audit_faults(session: Session) -> list[str]:
    """The faults of all hosts' audit trails, a sentence for each; for /health."""
    rows = session.scalars(select(AuditChainRow).where(AuditChainRow.fault.is_not(None)).order_by(AuditChainRow.host))
    return [f"{row.fault} on {row.host}" for row in rows]
