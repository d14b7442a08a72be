"""What the worklist sees of a study: status, label, probability and reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.orm import Session

from worker.db.readings import read_state
from worker.db.tables import (
    ReadState,
    SeriesRow,
    SeriesStatus,
    StudyReadingRow,
    StudyResultRow,
    StudyRow,
    StudyState,
)

_READ_AS = (
    select(StudyReadingRow.label)
    .where(StudyReadingRow.study_id == StudyRow.id, StudyReadingRow.withdrawn_at.is_(None))
    .order_by(StudyReadingRow.number.desc())
    .limit(1)
    .correlate(StudyRow)
    .scalar_subquery()
)
_COLUMNS = ("received_at", "status", "label", "probability", "read_state", "read_as")
_STUDY = (
    select(StudyRow.id, StudyRow.state, *[getattr(StudyRow, name) for name in _COLUMNS],
           StudyResultRow.status.label("answer_status"), StudyResultRow.label.label("answer_label"),
           StudyResultRow.probability.label("answer_probability"), _READ_AS.label("latest_reading"))
    .outerjoin(StudyResultRow, StudyResultRow.id == StudyRow.answered_by)
    .with_for_update(of=StudyRow)
)  # fmt: skip
_SERIES = select(SeriesRow.status, SeriesRow.label, SeriesRow.probability, SeriesRow.created_at)


@dataclass(frozen=True, slots=True)
class StudySummary:
    """As the columns of StudyRow."""

    received_at: datetime | None
    status: str
    label: str | None
    probability: float | None
    read_state: str
    read_as: str | None


def summarise_studies(session: Session | Connection, study_instance_uids: Iterable[str]) -> None:
    """Bring studies up to date, in the transaction that changed a series, an answer or a reading of theirs.

    Locks their rows in a fixed order, and writes only what changed.
    """
    connection = session.connection() if isinstance(session, Session) else session
    for uid in sorted(set(study_instance_uids)):
        study = connection.execute(_STUDY.where(StudyRow.study_instance_uid == uid)).first()
        if study is None:
            continue
        summary = _summary(study, connection.execute(_SERIES.where(SeriesRow.study_instance_uid == uid)).all())
        changed = {name: value for name in _COLUMNS if (value := getattr(summary, name)) != getattr(study, name)}
        if changed:
            connection.execute(update(StudyRow).where(StudyRow.id == study.id).values(**changed))


def _summary(study: Any, series: Sequence[Any]) -> StudySummary:
    status, label, probability = study.answer_status, study.answer_label, study.answer_probability
    if study.state == StudyState.PARKED:
        status, label, probability = SeriesStatus.FAILED, None, None
    elif status is None:
        status, label, probability = _of_series(study.state, series)
    return StudySummary(
        received_at=min((row.created_at for row in series), default=None),
        status=str(status),
        label=label,
        probability=probability,
        read_state=str(read_state(study.latest_reading, label) if study.latest_reading else ReadState.UNREAD),
        read_as=study.latest_reading,
    )


def _of_series(state: str, series: Sequence[Any]) -> tuple[SeriesStatus, str | None, float | None]:
    """A study without an answer of its own: not yet, or because no model answered it, or from before there were any.

    Such an earlier study has the label on which all its classified series agree.
    """
    found = Counter(row.status for row in series)
    answered = found[SeriesStatus.CLASSIFIED] + found[SeriesStatus.NOT_ASSESSED]
    if found[SeriesStatus.PENDING] or (answered and state == StudyState.OPEN):
        return SeriesStatus.PENDING, None, None
    if found[SeriesStatus.CLASSIFIED]:
        classified = [row for row in series if row.status == SeriesStatus.CLASSIFIED]
        labels = {row.label for row in classified}
        probability = classified[0].probability if len(classified) == 1 else None
        return SeriesStatus.CLASSIFIED, labels.pop() if len(labels) == 1 else None, probability
    for status in (SeriesStatus.NOT_ASSESSED, SeriesStatus.FAILED):
        if found[status]:
            return status, None, None
    return SeriesStatus.REFUSED, None, None
