"""What senders have of a study: for which it is queried, and what their answers say of its completeness.

An answer counts as long as nothing of the study came or settled after it was requested. A sender that has as many
series and images as are here says that the study is whole; a sender that has fewer contradicts itself, and
says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, union
from sqlalchemy.orm import Session, aliased

from worker.db.engine import upsert
from worker.db.tables import (
    AssociationRow,
    InstanceRow,
    JobRow,
    JobState,
    SeriesRow,
    SeriesState,
    StudyCountRow,
    StudyRow,
    StudyState,
)

_QUEUED_RECENTLY = timedelta(minutes=10)  # a study that waits longer for its first answer is queried after it


@dataclass(frozen=True, slots=True)
class StudyCount:
    """What a sender has of a study: the number of its series, and how many series and images are not here yet.

    All are None where it gave no answer that can be used.
    """

    series: int | None
    lacking_series: int | None
    lacking_instances: int | None


NO_ANSWER = StudyCount(None, None, None)


def studies_to_count(
    session: Session, ae_title: str, now: datetime, patience: timedelta, recount_after: timedelta, limit: int = 16
) -> list[str]:
    """Studies that came from a sender, are under way, and of which every series has settled: their UIDs.

    Without an answer, or with images still to come, a study is queried again after `recount_after`, until nothing of it
    changed for `patience`: then it is answered in any case.
    """
    waiting = (
        select(SeriesRow.study_instance_uid)
        .join(JobRow, JobRow.series_id == SeriesRow.id)
        .where(JobRow.state == JobState.PENDING, JobRow.not_before > now - _QUEUED_RECENTLY)
    )
    running = (
        select(SeriesRow.study_instance_uid)
        .join(JobRow, JobRow.series_id == SeriesRow.id)
        .where(JobRow.state == JobState.RUNNING)
    )
    unanswered = select(StudyRow.study_instance_uid).where(StudyRow.state == StudyState.OPEN)
    under_way = union(unanswered, waiting, running).subquery()
    study, count = under_way.c.study_instance_uid, StudyCountRow
    of_study = SeriesRow.study_instance_uid == study
    is_settled = ~select(SeriesRow.id).where(of_study, SeriesRow.state == SeriesState.OPEN).exists()
    comes_from = (
        select(InstanceRow.id)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .join(AssociationRow, AssociationRow.id == InstanceRow.association_id)
        .where(of_study, AssociationRow.calling_ae_title == ae_title)
        .exists()
    )
    is_due = or_(
        count.counted_at.is_(None),
        count.counted_at > now,  # the clock was set back since
        _changed_since(study, count.counted_at),
        and_(
            or_(count.lacking_series.is_(None), count.lacking_instances > 0, count.lacking_series > 0),
            count.counted_at <= now - recount_after,
            _changed_since(study, now - patience),
        ),
    )
    rows = session.scalars(
        select(study)
        .outerjoin(count, and_(count.study_instance_uid == study, count.ae_title == ae_title))
        .where(is_settled, comes_from, is_due)
        .order_by(count.counted_at, study)
        .limit(limit)
    )
    return list(rows)


def held_series(session: Session, study_instance_uid: str) -> dict[str, int]:
    """The number of stored instances of each series of a study, by Series Instance UID."""
    rows = session.execute(
        select(SeriesRow.series_instance_uid, func.count(InstanceRow.id))
        .outerjoin(InstanceRow, InstanceRow.series_id == SeriesRow.id)
        .where(SeriesRow.study_instance_uid == study_instance_uid)
        .group_by(SeriesRow.series_instance_uid)
    )
    return {uid: number for uid, number in rows}


def record_study_count(
    session: Session, study_instance_uid: str, ae_title: str, counted_at: datetime, count: StudyCount
) -> None:
    """Record what a sender has of a study; two hosts that query it at once leave one row."""
    values: dict[str, Any] = {
        "counted_at": counted_at,
        "series": count.series,
        "lacking_series": count.lacking_series,
        "lacking_instances": count.lacking_instances,
    }
    connection = session.connection()
    statement = upsert(connection)(StudyCountRow).values(
        study_instance_uid=study_instance_uid, ae_title=ae_title, **values
    )
    connection.execute(statement.on_conflict_do_update(index_elements=["study_instance_uid", "ae_title"], set_=values))


def is_whole(study: Any, now: Any) -> ColumnElement[bool]:
    """The condition that a sender has as much of a study as is here, and none has more."""
    has_all = _answers(study, now, and_(StudyCountRow.lacking_series == 0, StudyCountRow.lacking_instances == 0))
    return and_(has_all, ~lacks(study, now))


def lacks(study: Any, now: Any) -> ColumnElement[bool]:
    """The condition that a sender has series or images of a study that are not here."""
    return _answers(study, now, or_(StudyCountRow.lacking_series > 0, StudyCountRow.lacking_instances > 0))


def _answers(study: Any, now: Any, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    count = StudyCountRow
    return (
        select(count.ae_title)
        .where(count.study_instance_uid == study, count.counted_at <= now, condition)
        .where(~_changed_since(study, count.counted_at))
        .correlate_except(count)
        .exists()
    )


def _changed_since(study: Any, moment: Any) -> ColumnElement[bool]:
    """The condition that an image of a study came, or a series of it settled, after a moment."""
    series = aliased(SeriesRow)
    return (
        select(series.id)
        .where(series.study_instance_uid == study)
        .where(or_(series.last_received_at > moment, series.settled_at > moment))
        .correlate_except(series)
        .exists()
    )
