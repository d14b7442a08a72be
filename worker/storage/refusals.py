"""What the receiver turned away, in numbers: instances by their status, associations by their reason.

Nothing of a refused instance is kept, so without a count only the log would know. A refusal touches memory alone, for a
hostile peer can cause a thousand a second; a tick adds what there is to the database, where every host's are one sum.
A receiver that is killed takes the counts of the last seconds with it.
"""

from __future__ import annotations

import threading
from collections import Counter

from worker.db.engine import Database, Session
from worker.db.instances import add_refusals, refusal_counts
from worker.db.tables import RefusalKind
from worker.dicom import standard

# (status, reason) of C-STORE and the reasons of associations, told as 0 before they happen: for Prometheus a number
# that was not there before did not grow.
INSTANCE_REFUSALS = (
    (standard.PROCESSING_FAILURE, "not-stored"),
    (standard.PROCESSING_FAILURE, "storage-fault"),
    (standard.SOP_CLASS_NOT_SUPPORTED, "sop-class"),
    (standard.OUT_OF_RESOURCES, "no-space"),
    (standard.OUT_OF_RESOURCES, "dataset-too-large"),
    (standard.DATASET_MISMATCH, "invalid-uid"),
    (standard.DATASET_MISMATCH, "uid-mismatch"),
    (standard.CANNOT_UNDERSTAND, "unreadable-dataset"),
)
# By source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 Table 9-21).
_REJECTIONS = {
    (1, 2): "application-context",
    (1, 3): "calling-ae-title",
    (1, 7): "called-ae-title",
    (2, 2): "protocol-version",
    (3, 1): "congestion",
    (3, 2): "too-many-associations",
}
_CONNECTIONS = ("network", "tls", "too-many-connections")  # closed before an association was asked for
_OTHER = "other"
ASSOCIATION_REFUSALS = (*_REJECTIONS.values(), *_CONNECTIONS, _OTHER)


class Refusals:
    """Counts refusals in memory until `write`; one caller of `write` at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._counts: Counter[tuple[RefusalKind, str, str]] = Counter()

    def instance(self, status: int, reason: str) -> None:
        self._add(RefusalKind.INSTANCE, f"0x{status:04X}", reason)

    def connection(self, reason: str) -> None:
        self._add(RefusalKind.ASSOCIATION, "", reason)

    def association(self, source: int | None, diagnostic: int | None) -> None:
        """An A-ASSOCIATE-RJ."""
        self._add(RefusalKind.ASSOCIATION, "", _REJECTIONS.get((source or 0, diagnostic or 0), _OTHER))

    def _add(self, kind: RefusalKind, status: str, reason: str) -> None:
        with self._lock:
            self._counts[kind, status, reason] += 1

    def write(self) -> None:
        """Add the counts to the database's; they stay here where that fails."""
        with self._lock:
            counts = dict(self._counts)
        if not counts:
            return
        with self._database.write() as session:
            add_refusals(session, counts)
        with self._lock:
            self._counts -= Counter(counts)


def refused_instances(session: Session) -> dict[tuple[str, str], int]:
    """By (status, reason), since the database was made; 0 for what has not happened."""
    known = {(f"0x{status:04X}", reason): 0 for status, reason in INSTANCE_REFUSALS}
    return known | refusal_counts(session, RefusalKind.INSTANCE)


def refused_associations(session: Session) -> dict[str, int]:
    """By reason, as above."""
    counts = refusal_counts(session, RefusalKind.ASSOCIATION)
    return dict.fromkeys(ASSOCIATION_REFUSALS, 0) | {reason: number for (_, reason), number in counts.items()}
