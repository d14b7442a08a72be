"""Stages that an operator suspended; the roles look here before each job and each batch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session

from worker.db.engine import upsert
from worker.db.tables import Stage, SuspensionRow

_NAME_LENGTH = 64
_SUSPENDED = select(SuspensionRow.stage).where(SuspensionRow.stage == bindparam("stage"))


@dataclass(frozen=True, slots=True)
class Suspension:
    """A stage that waits for an operator, since when, and by whom."""

    stage: str
    suspended_at: datetime
    suspended_by: str


def suspend(session: Session, stages: Collection[Stage], by: str, now: datetime) -> list[Stage]:
    """Suspend stages; those that were not yet. Jobs and batches under way are finished."""
    connection = session.connection()
    values = [{"stage": stage, "suspended_at": now, "suspended_by": by[:_NAME_LENGTH]} for stage in stages]
    row = upsert(connection)(SuspensionRow).values(values).on_conflict_do_nothing()
    return sorted(Stage(stage) for stage in connection.scalars(row.returning(SuspensionRow.stage)))


def resume(session: Session, stages: Collection[Stage]) -> list[Stage]:
    """Resume stages; those that were suspended."""
    resumed = session.scalars(
        delete(SuspensionRow).where(SuspensionRow.stage.in_(stages)).returning(SuspensionRow.stage)
    )
    return sorted(Stage(stage) for stage in resumed)


def is_suspended(session: Session, stage: Stage) -> bool:
    """Whether a stage is suspended; asked at every poll."""
    return session.connection().scalar(_SUSPENDED, {"stage": stage}) is not None


def list_suspensions(session: Session) -> list[Suspension]:
    """What is suspended now, by stage."""
    rows = session.scalars(select(SuspensionRow).order_by(SuspensionRow.stage))
    return [Suspension(row.stage, row.suspended_at, row.suspended_by) for row in rows]
