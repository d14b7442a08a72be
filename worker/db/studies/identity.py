"""Whose images a study holds: the patient by its series, and series that have images of several studies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from worker.db.instances import IDENTITY_KEY, StoredFile, file_of
from worker.db.studies.opening import open_studies
from worker.db.tables import InstanceRow, OtherStudyRow, SeriesRow


def record_other_studies(session: Session, series: SeriesRow, studies: Collection[str]) -> None:
    """Record the studies besides its own that the images of a series name, and open those that it joins or leaves."""
    others = {uid for uid in studies if uid and uid != series.study_instance_uid}
    of_series = OtherStudyRow.series_id == series.id
    before = set(session.scalars(select(OtherStudyRow.study_instance_uid).where(of_series)))
    if others == before:
        return
    session.execute(delete(OtherStudyRow).where(of_series, OtherStudyRow.study_instance_uid.in_(before - others)))
    session.add_all(OtherStudyRow(series_id=series.id, study_instance_uid=uid) for uid in sorted(others - before))
    session.flush()
    open_studies(session, others ^ before)


def listed_study(session: Session, study_instance_uid: str) -> str:
    """The study under which a study is listed: another if all its images are in series of the other.

    Of such a study no patient is recorded, so it is not listed itself: it would have the other patient's name.
    """
    own = select(SeriesRow.id).where(SeriesRow.study_instance_uid == study_instance_uid).limit(1)
    if session.scalar(own) is not None:
        return study_instance_uid
    holder = (
        select(SeriesRow.study_instance_uid)
        .join(OtherStudyRow, OtherStudyRow.series_id == SeriesRow.id)
        .where(OtherStudyRow.study_instance_uid == study_instance_uid)
        .order_by(SeriesRow.id)
        .limit(1)
    )
    return session.scalar(holder) or study_instance_uid


def newest_attributes() -> Any:
    """Of a series in a query: the attributes of the image of it that came last, a scalar subquery."""
    return (
        select(InstanceRow.attributes)
        .where(InstanceRow.series_id == SeriesRow.id)
        .order_by(InstanceRow.received_at.desc(), InstanceRow.id.desc())
        .limit(1)
        .correlate(SeriesRow)
        .scalar_subquery()
    )


def newest_image(session: Session, study_instance_uid: str) -> StoredFile | None:
    """The image of a study that came last and is stored: it says whose the study is."""
    row = session.scalar(
        select(InstanceRow)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(SeriesRow.study_instance_uid == study_instance_uid, InstanceRow.removed_at.is_(None))
        .order_by(InstanceRow.received_at.desc(), InstanceRow.id.desc())
        .limit(1)
    )
    return file_of(row) if row is not None else None


def person_before(session: Session, series: SeriesRow) -> str | None:
    """What the images of the study that came last before those of a series say of patient and study, as a digest.

    None where no other series has images, or an earlier worker did not record it.
    """
    row: Mapping[str, Any] | None = session.scalar(
        select(newest_attributes())
        .select_from(SeriesRow)
        .where(SeriesRow.study_instance_uid == series.study_instance_uid, SeriesRow.id != series.id)
        .where(select(InstanceRow.id).where(InstanceRow.series_id == SeriesRow.id).exists())
        .where(SeriesRow.created_at <= series.last_received_at)
        .order_by(SeriesRow.last_received_at.desc(), SeriesRow.id.desc())
        .limit(1)
    )
    person: str | None = (row or {}).get(IDENTITY_KEY, {}).get("person")
    return person
