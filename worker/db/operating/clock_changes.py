"""Stored times after the clock was set: those in the future are reset, arrival times are shifted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from worker.db.tables import (
    AssociationRow,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JobState,
    NoticeRow,
    NoticeState,
    RefusedInstanceRow,
    SeriesRow,
    SeriesState,
    StudyRow,
)

STEP = timedelta(seconds=60)  # a smaller step back is waited for
_LONGEST_LEASE = timedelta(minutes=15)


def newest_time(session: Session) -> datetime | None:
    """When the newest of the images that are stored was received, by the clock of then."""
    newest = select(InstanceRow.received_at).order_by(InstanceRow.id.desc()).limit(1)
    return session.scalar(newest)


def reset_future_times(session: Session, now: datetime) -> None:
    """Reset to now the times that lie further ahead than anything waits: the clock was set back since."""
    ahead, long_ahead = now + STEP, now + _LONGEST_LEASE
    for table, column, state in (
        (JobRow, JobRow.not_before, JobRow.state == JobState.PENDING),
        (DeliveryRow, DeliveryRow.not_before, DeliveryRow.state == DeliveryState.PENDING),
        (NoticeRow, NoticeRow.not_before, NoticeRow.state == NoticeState.PENDING),
        (SeriesRow, SeriesRow.last_received_at, SeriesRow.state == SeriesState.OPEN),
    ):
        session.execute(update(table).where(state, column > ahead).values({column: now}))
    session.execute(update(AssociationRow).where(AssociationRow.closed_at > ahead).values(closed_at=now))
    session.execute(update(RefusedInstanceRow).where(RefusedInstanceRow.refused_at > ahead).values(refused_at=now))
    for table in (JobRow, DeliveryRow, NoticeRow):
        session.execute(update(table).where(table.lease_until > long_ahead).values(lease_until=now))
    session.execute(update(DeliveryRow).where(DeliveryRow.ask_again_at > long_ahead).values(ask_again_at=now))
    session.execute(update(StudyRow).where(StudyRow.not_before > long_ahead).values(not_before=now))


def shift_arrival_times(session: Session, step: timedelta) -> None:
    """After the clock was set ahead: no open series has been silent, no association over, for longer than before."""
    is_open = SeriesRow.state == SeriesState.OPEN
    for series in session.scalars(select(SeriesRow).where(is_open)):
        series.last_received_at += step
        if series.counted_at is not None:
            series.counted_at += step
    of_open_series = (
        select(InstanceRow.association_id).join(SeriesRow, SeriesRow.id == InstanceRow.series_id).where(is_open)
    )
    ended = AssociationRow.closed_at.is_not(None)
    for association in session.scalars(select(AssociationRow).where(ended, AssociationRow.id.in_(of_open_series))):
        association.closed_at = cast(datetime, association.closed_at) + step
