"""Studies for people: the answer for each, and what every series of it said and counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from worker.db.engine import is_any_of
from worker.db.series import MOVED
from worker.db.tables import ModelRow, ObjectKind, ObjectRow, SeriesRow, StudyResultRow, StudyRow
from worker.db.views.search import DeliveryAnswer, deliveries_by

LARGEST_PAGE = 500


@dataclass(frozen=True, slots=True)
class StudySeriesAnswer:
    """A series of a study. Of the study's answer: `weight` is its share, 0 where it does not count, None before.

    `sequence` and `plane` are those that it was judged as, or else those of its headers.
    """

    series_instance_uid: str
    series_number: int | None
    series_description: str
    sequence: str | None
    plane: str | None
    status: str
    label: str | None
    probability: float | None
    reason: str | None
    weight: float | None
    contradicts: bool
    deciding: bool


@dataclass(frozen=True, slots=True)
class StudyAnswer:
    """A study with its answer. `state`: open (its series, or the answer, are under way), answered, or parked.

    An earlier answer stays visible while the study is open. `revision` counts its answers; None without any, as of a
    study whose series were all refused. `contradiction` names series that contradict each other. Patient and study are
    as the newest images name them; `attributes_changed_at` is when they last named others than those before.
    """

    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_date: str
    state: str
    status: str | None
    label: str | None
    probability: float | None
    probabilities: Mapping[str, float]
    reason: str | None
    detail: str | None
    contradiction: str | None
    revision: int | None
    answered_at: datetime | None
    model: str | None
    model_version: str | None
    attributes_changed_at: datetime | None
    series: tuple[StudySeriesAnswer, ...]
    deliveries: tuple[DeliveryAnswer, ...] = ()  # of the objects of this answer


@dataclass(frozen=True, slots=True)
class StudyPage:
    """Newest first; `older_than` continues the list, None at its end."""

    studies: tuple[StudyAnswer, ...]
    older_than: int | None


def find_studies(session: Session, older_than: int | None = None, limit: int = 100) -> StudyPage:
    """The studies of which a series was received."""
    query = select(StudyRow, StudyResultRow, ModelRow).order_by(StudyRow.id.desc()).limit(min(limit, LARGEST_PAGE) + 1)
    query = query.where(StudyRow.received_at.is_not(None))
    if older_than is not None:
        query = query.where(StudyRow.id < older_than)
    rows = _with_results(session, query)
    shown = rows[: min(limit, LARGEST_PAGE)]
    return StudyPage(tuple(_answers(session, shown)), shown[-1][0].id if len(rows) > len(shown) else None)


def find_study(session: Session, study_instance_uid: str) -> StudyAnswer | None:
    """None for a study of which no series was received."""
    query = select(StudyRow, StudyResultRow, ModelRow).where(StudyRow.study_instance_uid == study_instance_uid)
    return next(iter(_answers(session, _with_results(session, query))), None)


@dataclass(frozen=True, slots=True)
class StudyDocuments:
    """Paths below the data folder of the report and the picture of a study's latest answer, None where not made."""

    report: str | None
    picture: str | None
    deciding: str | None  # the series that speaks most clearly for the answer


def find_study_documents(session: Session, study_instance_uid: str) -> StudyDocuments | None:
    """None for a study of which no series was answered or refused."""
    study = session.execute(
        select(StudyRow.answered_by, StudyResultRow.deciding)
        .outerjoin(StudyResultRow, StudyResultRow.id == StudyRow.answered_by)
        .where(StudyRow.study_instance_uid == study_instance_uid)
    ).first()
    if study is None:
        return None
    of_answer = select(ObjectRow.kind, ObjectRow.path).where(ObjectRow.study_result_id == study.answered_by)
    paths = {kind: path for kind, path in session.execute(of_answer)}
    return StudyDocuments(paths.get(ObjectKind.REPORT), paths.get(ObjectKind.PICTURE), study.deciding)


def deliveries_of_studies(session: Session, uids: Iterable[str]) -> dict[str, list[DeliveryAnswer]]:
    """The deliveries of what was made of the studies' latest answers, by Study Instance UID."""
    answered = select(StudyRow.answered_by, StudyRow.study_instance_uid).where(
        StudyRow.answered_by.is_not(None), is_any_of(session, StudyRow.study_instance_uid, uids)
    )
    study_of = {number: uid for number, uid in session.execute(answered) if number is not None}
    by_result = deliveries_by(session, ObjectRow.study_result_id, list(study_of))
    return {study_of[number]: deliveries for number, deliveries in by_result.items()}


_Row = tuple[StudyRow, StudyResultRow | None, ModelRow | None]


def _with_results(session: Session, query: Any) -> list[_Row]:
    joined = query.outerjoin(StudyResultRow, StudyResultRow.id == StudyRow.answered_by).outerjoin(
        ModelRow, ModelRow.id == StudyResultRow.model_id
    )
    return [(study, result, model) for study, result, model in session.execute(joined)]


def _answers(session: Session, rows: Sequence[_Row]) -> list[StudyAnswer]:
    uids = [study.study_instance_uid for study, _, _ in rows]
    series: dict[str, list[SeriesRow]] = {uid: [] for uid in uids}
    for row in session.scalars(select(SeriesRow).where(SeriesRow.study_instance_uid.in_(uids)).order_by(SeriesRow.id)):
        series[row.study_instance_uid].append(row)
    results = [study.answered_by for study, _, _ in rows if study.answered_by is not None]
    deliveries = deliveries_by(session, ObjectRow.study_result_id, results)
    return [
        _answer(study, result, model, series[study.study_instance_uid], deliveries.get(study.answered_by or 0, ()))
        for study, result, model in rows
    ]


def _answer(
    study: StudyRow,
    result: StudyResultRow | None,
    model: ModelRow | None,
    series: Sequence[SeriesRow],
    deliveries: Sequence[DeliveryAnswer],
) -> StudyAnswer:
    first = max(series, key=lambda row: (row.reason != MOVED, row.last_received_at, row.id), default=None)
    changes = [row.attributes_changed_at for row in series if row.attributes_changed_at is not None]
    counted = {item["answer"]["series"]: item for item in result.contributions} if result else {}
    return StudyAnswer(
        study_instance_uid=study.study_instance_uid,
        patient_id=first.patient_id if first else "",
        patient_name=first.patient_name if first else "",
        accession_number=first.accession_number if first else "",
        study_date=first.study_date if first else "",
        state=study.state,
        status=result.status if result else None,
        label=result.label if result else None,
        probability=result.probability if result else None,
        probabilities=dict(result.probabilities) if result else {},
        reason=result.reason if result else study.reason,
        detail=result.detail if result else study.detail,
        contradiction=result.contradiction if result else None,
        revision=result.number if result else None,
        answered_at=result.created_at if result else None,
        model=model.name if model else None,
        model_version=model.version if model else None,
        attributes_changed_at=max(changes, default=None),
        series=tuple(_series(row, counted.get(row.series_instance_uid), result) for row in series),
        deliveries=tuple(deliveries),
    )


def _series(row: SeriesRow, counted: Mapping[str, Any] | None, result: StudyResultRow | None) -> StudySeriesAnswer:
    said = counted["answer"] if counted else {}
    return StudySeriesAnswer(
        series_instance_uid=row.series_instance_uid,
        series_number=said.get("number"),
        series_description=row.series_description,
        sequence=said.get("sequence") or row.sequence,
        plane=said.get("plane") or row.plane,
        status=row.status,
        label=row.label,
        probability=row.probability,
        reason=said.get("reason") or row.reason,
        weight=counted["weight"] if counted else None,
        contradicts=bool(counted and counted["contradicts"]),
        deciding=result is not None and result.deciding == row.series_instance_uid,
    )
