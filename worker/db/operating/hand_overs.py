"""Rows of studies that are being handed over: what another node has confirmed, so that a repetition completes it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from worker.db.tables import ConflictRow, HandOverRow, InstanceRow, SeriesRow

if TYPE_CHECKING:
    from worker.dicom.commitment import CommitmentReport


def has_conflicts(session: Session, study_instance_uid: str) -> bool:
    """Whether other content of an image of the study waits for a decision."""
    waiting = (
        select(ConflictRow.id)
        .join(InstanceRow, InstanceRow.id == ConflictRow.instance_id)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(SeriesRow.study_instance_uid == study_instance_uid)
    )
    return session.scalar(waiting.limit(1)) is not None


def begin(session: Session, study_instance_uid: str, destination: str, content: str, now: datetime) -> datetime | None:
    """Begin to hand over a study of this content; when the destination took just that, where it did already."""
    row = session.scalar(select(HandOverRow).where(HandOverRow.study_instance_uid == study_instance_uid))
    if row is not None and (row.destination, row.content) == (destination, content) and row.taken_at is not None:
        return row.taken_at
    session.execute(delete(HandOverRow).where(HandOverRow.study_instance_uid == study_instance_uid))
    session.add(
        HandOverRow(study_instance_uid=study_instance_uid, destination=destination, content=content, begun_at=now)
    )
    session.flush()
    return None


def expect_report(session: Session, study_instance_uid: str, transaction_uid: str) -> None:
    """Note the transaction of a request for storage commitment, before it is sent."""
    session.execute(
        update(HandOverRow)
        .where(HandOverRow.study_instance_uid == study_instance_uid)
        .values(transaction_uid=transaction_uid, committed=None)
    )


def record_report(session: Session, report: CommitmentReport) -> bool:
    """Record a report of storage commitment; False where it is of no study that is handed over."""
    rows = session.execute(
        update(HandOverRow)
        .where(HandOverRow.transaction_uid == report.transaction_uid)
        .values(committed=sorted(report.committed - set(report.failed)))
        .returning(HandOverRow.id)
    )
    return rows.first() is not None


def committed_to(session: Session, transaction_uid: str) -> frozenset[str] | None:
    """The SOP Instance UIDs that the report of a transaction names as stored; None before it has come."""
    found = session.scalar(select(HandOverRow.committed).where(HandOverRow.transaction_uid == transaction_uid))
    return None if found is None else frozenset(found)


def mark_taken(session: Session, study_instance_uid: str, destination: str, content: str, now: datetime) -> None:
    """Record that the destination has confirmed all of it: the study may be deleted."""
    session.execute(
        update(HandOverRow)
        .where(HandOverRow.study_instance_uid == study_instance_uid)
        .where(HandOverRow.destination == destination, HandOverRow.content == content)
        .values(taken_at=now)
    )
