"""The conflicts that wait for a decision: contents with other pixels under known SOP Instance UIDs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.db.tables import AssociationRow, ConflictRow, EarlierVersionRow, InstanceRow, SeriesRow, SeriesStatus
from worker.db.versions.corrections import PARTLY_CORRECTED


@dataclass(frozen=True, slots=True)
class Conflict:
    """Content that waits; `number` is the argument of `worker conflicts accept`.

    `differs`: pixels, transfer-syntax, sop-class, or not-comparable, where the stored file is deleted or damaged or one
    of both cannot be read; None where an earlier version of the worker set it aside. `sender`: its AE title.
    """

    number: int
    series_instance_uid: str
    sop_instance_uid: str
    differs: str | None
    sender: str | None
    size: int
    received_at: datetime


def list_conflicts(session: Session, after: int = 0, limit: int | None = None) -> list[Conflict]:
    """Oldest first, with numbers above `after`; the series is that of the stored instance."""
    rows = session.execute(
        select(
            ConflictRow, SeriesRow.series_instance_uid, InstanceRow.sop_instance_uid, AssociationRow.calling_ae_title
        )
        .join(InstanceRow, InstanceRow.id == ConflictRow.instance_id)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .outerjoin(AssociationRow, AssociationRow.id == ConflictRow.association_id)
        .where(ConflictRow.id > after, ConflictRow.decision.is_(None))
        .order_by(ConflictRow.id)
        .limit(limit)
    )
    return [
        Conflict(row.id, series, instance, row.reason, sender, row.size, row.received_at)
        for row, series, instance, sender in rows
    ]


@dataclass(frozen=True, slots=True)
class PartlyCorrected:
    """A series that is refused because a correction has reached only some of its images; `detail` counts them."""

    series_instance_uid: str
    detail: str | None
    settled_at: datetime | None


def list_partly_corrected(session: Session, limit: int | None = None) -> list[PartlyCorrected]:
    """Those that wait for the rest of a correction, the latest first."""
    rows = session.execute(
        select(SeriesRow.series_instance_uid, SeriesRow.detail, SeriesRow.settled_at)
        .where(SeriesRow.status == SeriesStatus.REFUSED, SeriesRow.reason == PARTLY_CORRECTED)
        .order_by(SeriesRow.created_at.desc(), SeriesRow.id.desc())
        .limit(limit)
    )
    return [PartlyCorrected(*row) for row in rows]


def count_conflicts(session: Session) -> int:
    """How many wait."""
    return session.scalar(select(func.count()).where(ConflictRow.decision.is_(None))) or 0


def count_corrections(session: Session) -> int:
    """How often content of an instance was replaced by a correction, since the database was created."""
    return session.scalar(select(func.count()).select_from(EarlierVersionRow)) or 0


@dataclass(frozen=True, slots=True)
class VersionsOfSeries:
    """How many of the images of a series were corrected, and how many conflicts on them wait."""

    corrected: int
    conflicts: int


def versions_of_series(session: Session, series_instance_uid: str) -> VersionsOfSeries:
    """None of either for a series that was not received."""
    of_series = (
        select(InstanceRow.id)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(SeriesRow.series_instance_uid == series_instance_uid)
    )
    earlier, conflict = EarlierVersionRow.instance_id, ConflictRow.instance_id
    corrected = session.scalar(select(func.count(earlier.distinct())).where(earlier.in_(of_series)))
    waiting = session.scalar(select(func.count()).where(conflict.in_(of_series), ConflictRow.decision.is_(None)))
    return VersionsOfSeries(corrected or 0, waiting or 0)
