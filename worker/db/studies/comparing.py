"""What two models, and a reader, said of each study that both models processed; and the studies of a month."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Subquery, and_, case, func, select, union_all
from sqlalchemy.orm import Session

from worker.db.studies.readings import is_latest_study_reading
from worker.db.tables import (
    JobRow,
    ResultRow,
    SeriesRow,
    ShadowResultRow,
    StudyReadingRow,
    StudyResultRow,
    StudyRow,
)


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A stored result of a model for a series; `basis` as in ResultRow."""

    label: str | None
    reason: str | None
    probabilities: Mapping[str, float]
    basis: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ComparedSeries:
    """A series, what its headers tell of it, and what both models said of its newest images that both processed."""

    series_instance_uid: str
    sequence: str | None
    plane: str | None
    first: StoredAnswer
    second: StoredAnswer


@dataclass(frozen=True, slots=True)
class ComparedStudy:
    """A study with its series; `read_as` is the label of its latest reading, None where nobody read it."""

    read_as: str | None
    series: tuple[ComparedSeries, ...]


def compared_studies(session: Session, first: int, second: int) -> Iterator[ComparedStudy]:
    """Every study of which both models (row ids) processed a series, with those series; read row by row."""
    one, other = answers_of(first, "one"), answers_of(second, "other")
    same = and_(one.c.series_id == other.c.series_id, one.c.input_sha256 == other.c.input_sha256)
    rows = session.execute(
        select(SeriesRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.sequence, SeriesRow.plane,
               one.c.label, one.c.reason, one.c.probabilities, one.c.basis,
               other.c.label, other.c.reason, other.c.probabilities, other.c.basis, StudyReadingRow.label)
        .join(one, one.c.series_id == SeriesRow.id)
        .join(other, same)
        .outerjoin(StudyRow, StudyRow.study_instance_uid == SeriesRow.study_instance_uid)
        .outerjoin(StudyReadingRow, and_(StudyReadingRow.study_id == StudyRow.id, is_latest_study_reading()))
        .order_by(SeriesRow.study_instance_uid, SeriesRow.series_instance_uid, one.c.job_id)
        .execution_options(yield_per=1000)
    )  # fmt: skip
    for _, of_study in groupby(rows, key=itemgetter(0)):
        newest = {row[1]: row for row in of_study}
        series = tuple(
            ComparedSeries(row[1], row[2], row[3], StoredAnswer(*row[4:8]), StoredAnswer(*row[8:12]))
            for row in newest.values()
        )
        yield ComparedStudy(next(iter(newest.values()))[12], series)


def answers_of(model_id: int, name: str) -> Subquery:
    """A row per input set that a model has answered, in shadow or not; `label` is NULL where it was not assessed."""
    queries = [
        select(JobRow.id.label("job_id"), JobRow.series_id, JobRow.input_sha256, row.label, row.reason,
               row.probabilities, row.basis)
        .join(row, row.job_id == JobRow.id)
        .where(JobRow.model_id == model_id)
        for row in (ResultRow, ShadowResultRow)
    ]  # fmt: skip
    return union_all(*queries).subquery(name)


@dataclass(frozen=True, slots=True)
class StudiesMonth:
    """The studies that were answered in a time, by their last answer of it: `labels` by class, `without` by reason.

    `revised`: those with several answers so far; `contradicted`: those whose series contradict each other.
    """

    studies: int
    labels: dict[str, int]
    without: dict[str, int]
    revised: int
    contradicted: int


def studies_answered(session: Session, since: datetime, until: datetime) -> StudiesMonth:
    """Count the studies that were answered from `since` until before `until`."""
    answer = StudyResultRow
    last = (
        select(answer.study_id, func.max(answer.number).label("number"))
        .where(answer.created_at >= since, answer.created_at < until)
        .group_by(answer.study_id)
        .subquery()
    )
    rows = session.execute(
        select(
            answer.label,
            answer.reason,
            func.count(),
            func.count(case((answer.number > 1, 1))),
            func.count(answer.contradiction),
        )
        .join(last, and_(last.c.study_id == answer.study_id, last.c.number == answer.number))
        .group_by(answer.label, answer.reason)
    )
    labels: Counter[str] = Counter()
    without: Counter[str] = Counter()
    total = revised = contradicted = 0
    for label, reason, number, of_revised, of_contradicted in rows:
        (labels if label else without)[label or reason or ""] += number
        total += number
        revised += of_revised
        contradicted += of_contradicted
    return StudiesMonth(total, dict(sorted(labels.items())), dict(sorted(without.items())), revised, contradicted)
