"""Refused instances (C-STORE and STOW-RS, by status and reason) and refused associations (by reason): log and count.

Nothing of a refused instance is stored, so without a count only the log would show it. A refusal touches memory only,
because a hostile peer can cause a thousand a second; `write` adds the counts to the database, where those of all
processes are summed: the receiver by a tick, STOW-RS at the end of a request. A process that is killed loses the counts
since its last `write`.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from worker.db.engine import Database, Session
from worker.db.instances import add_refusals, refusal_counts
from worker.db.settling import InstanceRefusal, add_refused_instances
from worker.db.tables import RefusalKind
from worker.dicom import standard
from worker.dicom.odd_values import ignore_value_warnings
from worker.errors import RefusedInstance
from worker.logs import fault_fields, get_log
from worker.storage.acceptance import IDENTIFYING_BYTES

_NOT_STORED = "not-stored"
_INSTANCE, _SERIES = Tag("SOPInstanceUID"), Tag("SeriesInstanceUID")
# Every (status, reason) of a refused instance and every reason of a refused association. GET /metrics shows them as 0
# before they happen: Prometheus computes no increase from a counter's first value.
INSTANCE_REFUSALS = (
    (standard.PROCESSING_FAILURE, _NOT_STORED),
    (standard.DUPLICATE_SOP_INSTANCE, "uid-of-produced"),
    (standard.INVALID_INSTANCE, "invalid-instance"),
    (standard.SOP_CLASS_NOT_SUPPORTED, "sop-class"),
    (standard.TRANSFER_SYNTAX_NOT_SUPPORTED, "transfer-syntax"),
    (standard.OUT_OF_RESOURCES, "no-space"),
    (standard.OUT_OF_RESOURCES, "storage-fault"),
    (standard.OUT_OF_RESOURCES, "dataset-too-large"),
    (standard.DATASET_MISMATCH, "invalid-uid"),
    (standard.DATASET_MISMATCH, "uid-mismatch"),
    (standard.DATASET_MISMATCH, "other-study"),
    (standard.CANNOT_UNDERSTAND, "unreadable-dataset"),
    (standard.CANNOT_UNDERSTAND, "dataset-too-complex"),
    (standard.CANNOT_UNDERSTAND, "not-dicom"),
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
_CONNECTIONS = ("network", "tls", "silent", "malformed-request")  # ended before an association was requested
_OTHER = "other"
_NOTED = 2_000  # refused instances between two writes: a hostile peer fills no memory
ASSOCIATION_REFUSALS = (*_REJECTIONS.values(), *_CONNECTIONS, _OTHER)


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """What a request that was refused brought: the beginning of its file suffices. `peer` is an address."""

    encoded: bytes | bytearray
    affected_sop_instance_uid: str
    association_id: int | None
    peer: str


class Refusals:
    """Counts refusals in memory until `write`."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._clock = clock
        self._instances: dict[tuple[str, str, str], InstanceRefusal] = {}
        self._lock, self._write_lock = threading.Lock(), threading.Lock()
        self._counts: Counter[tuple[RefusalKind, str, str]] = Counter()

    def refuse(self, fault: Exception, request: RefusedRequest | None = None) -> int:
        """Log and count why an instance was not stored; the status to answer (PS3.4 B.2.3, PS3.18 Annex I).

        A RefusedInstance names its status; any other exception is a failure of ours, 0x0110. `request` tells the series
        that may lack the instance.
        """
        if isinstance(fault, RefusedInstance):
            status, reason = fault.status, fault.reason
            get_log().warning("instance refused", status=f"0x{status:04X}", reason=reason)
        else:
            status, reason = standard.PROCESSING_FAILURE, _NOT_STORED
            get_log().error("instance not stored", **fault_fields(fault))
        self._add(RefusalKind.INSTANCE, f"0x{status:04X}", reason)
        if request is not None:
            self._note(request, f"0x{status:04X}", reason)
        return status

    def _note(self, request: RefusedRequest, status: str, reason: str) -> None:
        """Note what was refused for `write_instances`, so far as a series may lack it."""
        series, instance = identify(request.encoded)
        if not series and request.association_id is None:
            return
        affected = request.affected_sop_instance_uid if standard.is_uid(request.affected_sop_instance_uid) else ""
        other = affected if instance and affected != instance else ""
        refusal = InstanceRefusal(
            series_instance_uid=series,
            sop_instance_uid=instance or affected,
            affected_sop_instance_uid=other,
            association_id=request.association_id,
            peer=request.peer[:64],
            status=status,
            reason=reason,
            refused_at=self._clock(),
        )
        with self._lock:
            if len(self._instances) < _NOTED:
                self._instances[series, refusal.sop_instance_uid, other] = refusal

    def write_instances(self) -> None:
        """Record which instances were refused; they stay here if that fails. Settling calls it before it looks."""
        with self._write_lock:
            with self._lock:
                noted = dict(self._instances)
            if not noted:
                return
            with self._database.write() as session:
                add_refused_instances(session, list(noted.values()), self._clock())
            with self._lock:
                self._instances = {key: value for key, value in self._instances.items() if noted.get(key) != value}

    def connection(self, reason: str) -> None:
        """Count a connection that was closed before an association was requested."""
        self._add(RefusalKind.ASSOCIATION, "", reason)

    def association(self, source: int | None, diagnostic: int | None) -> None:
        """Count an A-ASSOCIATE-RJ."""
        self._add(RefusalKind.ASSOCIATION, "", _REJECTIONS.get((source or 0, diagnostic or 0), _OTHER))

    def _add(self, kind: RefusalKind, status: str, reason: str) -> None:
        with self._lock:
            self._counts[kind, status, reason] += 1

    def write(self) -> None:
        """Add the counts to the database's; they stay here if that fails."""
        self.write_instances()
        with self._write_lock:  # else two threads would write the same counts
            with self._lock:
                counts = dict(self._counts)
            if not counts:
                return
            with self._database.write() as session:
                add_refusals(session, counts)
            with self._lock:
                self._counts -= Counter(counts)


def refused_instances(session: Session) -> dict[tuple[str, str], int]:
    """Counts by (status, reason) since the database was created; 0 for what has not happened."""
    known = {(f"0x{status:04X}", reason): 0 for status, reason in INSTANCE_REFUSALS}
    return known | refusal_counts(session, RefusalKind.INSTANCE)


def refused_associations(session: Session) -> dict[str, int]:
    """Counts by reason, as above."""
    counts = refusal_counts(session, RefusalKind.ASSOCIATION)
    return dict.fromkeys(ASSOCIATION_REFUSALS, 0) | {reason: number for (_, reason), number in counts.items()}


def identify(encoded: bytes | bytearray) -> tuple[str, str]:
    """(Series, SOP Instance UID) of a refused file, as far as its beginning tells; "" where it does not.

    Elements behind the UIDs are not read, so that damage in them does not matter.
    """
    try:
        with ignore_value_warnings():
            file = BytesIO(bytes(encoded[:IDENTIFYING_BYTES]))
            file.seek(132)
            meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
            syntax = str(meta.get("TransferSyntaxUID", ""))
            if syntax == DeflatedExplicitVRLittleEndian:
                file = BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), IDENTIFYING_BYTES))
            ds = read_dataset(
                file,
                syntax == ImplicitVRLittleEndian,
                syntax != ExplicitVRBigEndian,
                stop_when=lambda tag, _vr, _length: tag > _SERIES,
                specific_tags=[_INSTANCE, _SERIES],
            )
            series, instance = (str(ds.get(keyword) or "") for keyword in ("SeriesInstanceUID", "SOPInstanceUID"))
    except Exception:  # hostile bytes may raise anything in a parser: what they are of is unknown
        return "", ""
    return series if standard.is_uid(series) else "", instance if standard.is_uid(instance) else ""
