"""Rows of conflicts: content with other pixels under a known SOP Instance UID, until a person accepts or rejects it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from worker.db.instances import NewInstance
from worker.db.tables import ConflictRow, Decision, InstanceRow
from worker.db.versions.corrections import is_named


def add_conflict(
    session: Session, stored: InstanceRow, new: NewInstance, path: str, now: datetime, reason: str | None = None
) -> None:
    """Record other content that came under a stored instance's UID, once per content; `reason`: what differs.

    Content that was decided on and comes again waits again.
    """
    same = (ConflictRow.instance_id == stored.id, ConflictRow.sha256 == new.sha256)
    row = session.scalar(select(ConflictRow).where(*same))
    if row is not None and row.decision is None:
        return
    if row is None:
        row = ConflictRow(instance_id=stored.id, sha256=new.sha256, size=new.size)
        session.add(row)
    row.association_id, row.path, row.reason, row.received_at = new.association_id, path, reason, now
    row.decision = row.decided_at = row.decided_by = None
    session.flush()


def find_conflict(session: Session, number: int) -> tuple[ConflictRow, InstanceRow] | None:
    """A conflict that waits, and its instance."""
    row = session.execute(
        select(ConflictRow, InstanceRow)
        .join(InstanceRow, InstanceRow.id == ConflictRow.instance_id)
        .where(ConflictRow.id == number, ConflictRow.decision.is_(None))
        .execution_options(populate_existing=True)
    ).first()
    return (row[0], row[1]) if row is not None else None


def decide_conflict(
    session: Session, instance_id: int, sha256: str, decision: Decision, now: datetime, by: str | None = None
) -> list[str]:
    """Record a decision on content that waits, if it does; the paths of files that no row names any more.

    `by` None: it came again, and was taken in as a correction.
    """
    waiting = session.scalars(
        select(ConflictRow).where(
            ConflictRow.instance_id == instance_id, ConflictRow.sha256 == sha256, ConflictRow.decision.is_(None)
        )
    ).all()
    for row in waiting:
        row.decision, row.decided_at, row.decided_by = decision, now, by
    session.flush()
    return [row.path for row in waiting if not is_named(session, instance_id, row.path)]
