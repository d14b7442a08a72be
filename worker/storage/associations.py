"""The row of an association over which instances arrive: its receiver opens it, and series wait for its end.

The association itself is `worker.receive`'s. A STOW-RS request has such a row, too, so that a series does not settle
while its images are being uploaded.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from worker.audit import events
from worker.audit.subjects import received_over
from worker.config.settings import Settings
from worker.db.engine import Database, Session
from worker.db.instances import close_association, open_association, open_associations
from worker.db.processes import is_lost
from worker.db.tables import AssociationEnd, AssociationRow
from worker.logs import fault_fields, get_log
from worker.process import process_name

_RETRY_SECONDS = 1.0


class Associations:
    """Opens and closes the rows of this process's associations, and audits what arrived over them."""

    def __init__(
        self, database: Database, ae_title: str, clock: Callable[[], datetime], record: events.RecordEvent
    ) -> None:
        self._database = database
        self._ae_title = ae_title
        self._clock = clock
        self._record = record
        self._receiver = process_name()

    def open(self, calling: str, address: str) -> int:
        """The number of a new row."""
        with self._database.write() as session:
            return open_association(session, calling[:16], address[:64], self._receiver, self._clock())

    def close(self, row: int, end: AssociationEnd, sender: str | None = None) -> None:
        """Record the end; `sender` names who sent it in the audit trail, the calling AE title without it.

        A series waits for this, so a failure is retried until it is recorded.
        """
        try:
            _close(self._database, row, end, self._clock(), self._ae_title, self._record, sender)
        except Exception as error:  # a handler's boundary
            get_log().error("association end not recorded", association_row=row, **fault_fields(error))
            retry = threading.Timer(_RETRY_SECONDS, self.close, [row, end, sender])
            retry.daemon = True
            retry.start()


def _close(
    database: Database,
    row: int,
    end: AssociationEnd,
    now: datetime,
    ae_title: str,
    record: events.RecordEvent,
    sender: str | None = None,
) -> None:
    with database.write() as session:
        close_association(session, row, now, end)
        calling, address, transfers = received_over(session, row)
    for transferred in transfers:
        record(events.received(sender or calling, address, ae_title, transferred))


def close_dead_associations(
    settings: Settings, database: Database, now: datetime, record: events.RecordEvent, living: str | None = None
) -> int:
    """Close the rows of receivers that have died as lost, and audit what arrived over them; the number of rows.

    `living` is the receiver that calls this, once it listens; before that, a receiver of its name is an earlier
    process. A receiver on another host is dead when it has been silent for a lease, so that its series need not wait.
    """
    lease = timedelta(seconds=settings.worker.lease_seconds)
    with database.read() as session:
        dead = [
            association.id
            for association in open_associations(session)
            if association.receiver != living and _is_dead(session, association, now, lease)
        ]
    for row in dead:
        _close(database, row, AssociationEnd.LOST, now, settings.worker.ae_title, record)
    return len(dead)


def _is_dead(session: Session, association: AssociationRow, now: datetime, lease: timedelta) -> bool:
    if association.receiver == process_name():
        return True
    is_here = association.receiver.partition(":")[0] == socket.gethostname()
    # The receiver of an association that was just opened elsewhere may still have to record its first heartbeat.
    return (is_here or association.opened_at <= now - lease) and is_lost(session, association.receiver, now, lease)
