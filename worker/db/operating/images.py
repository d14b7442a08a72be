"""Each image of a series, for whoever looks at their headers."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.db.tables import InstanceRow, SeriesRow


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of a series of `count`; `path` is None where retention deleted its file."""

    study_instance_uid: str
    sop_instance_uid: str
    count: int
    path: str | None


def stored_image(session: Session, series_instance_uid: str, number: int) -> StoredImage | None:
    """The image of this number, from 1, in the order in which they came; None where there is none."""
    series = session.scalar(select(SeriesRow).where(SeriesRow.series_instance_uid == series_instance_uid))
    if series is None:
        return None
    of_series = InstanceRow.series_id == series.id
    row = session.scalar(select(InstanceRow).where(of_series).order_by(InstanceRow.id).offset(number - 1).limit(1))
    if row is None:
        return None
    count = session.scalar(select(func.count()).select_from(InstanceRow).where(of_series)) or 0
    path = row.path if row.removed_at is None else None
    return StoredImage(series.study_instance_uid, row.sop_instance_uid, count, path)
