"""Totals and gauges for GET /metrics.

Requested every few seconds from a database that may hold a million series, so nothing here reads every row twice: rows
that are only ever added are counted from where the last count ended, unfinished ones are found by an index, and the
finished ones are the difference.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from worker.db.tables import (
    REFUSED,
    UNCOMMITTED,
    URGENT,
    Commitment,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JobState,
    ModelRow,
    ObjectRow,
    ResultRow,
    SeriesRow,
    SeriesStatus,
    StudyResultRow,
    StudyRow,
    StudyState,
)

# A row gets its id before its transaction commits: this many of the newest rows are recounted each time, so that a row
# whose transaction was still open is not missed.
_NEWEST = 10_000
_OPEN_STUDIES = 1000  # are looked at for that which waits longest
_WAITING = (DeliveryState.PENDING, DeliveryState.SENDING)
_NOT_DONE = (JobState.PENDING, JobState.RUNNING, JobState.PARKED, JobState.SUPERSEDED)


@dataclass(frozen=True, slots=True)
class DestinationTotals:
    """Deliveries to a destination: numbers by state, the oldest result that waits, open commitments by state."""

    states: dict[str, int]
    oldest: datetime | None
    commitments: dict[str, int]


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers since the database was created; `refused` and `not_assessed` by reason, `results` by (model, class).

    A result without a class counts as "not-assessed". `series`, `jobs` and `studies` by their present status or state;
    `oldest_series`, `oldest_job` and `oldest_urgent_job` are the times of the oldest pending ones, `oldest_study` when
    something of the open study that waits longest changed last; None if none waits. `study_results`, `studies_without`
    (by reason) and `contradictions` count answers for studies, revised ones too.
    """

    instances_received: int
    series_received: int
    series: dict[str, int]
    refused: dict[str, int]
    oldest_series: datetime | None
    jobs: dict[str, int]
    oldest_job: datetime | None
    oldest_urgent_job: datetime | None
    studies: dict[str, int]
    oldest_study: datetime | None
    study_results: dict[tuple[str, str], int]
    studies_without: dict[str, int]
    contradictions: int
    results: dict[tuple[str, str], int]
    not_assessed: dict[str, int]
    deliveries: dict[str, DestinationTotals]


class _AppendOnlyCount:
    """A count of rows that are never deleted, by columns that never change."""

    def __init__(self, table: Any, *by: Any) -> None:
        self._table, self._key, self._by = table, table.id, by
        self._counted_to = 0
        self._counted: Counter[tuple[Any, ...]] = Counter()

    def count(self, session: Session) -> Counter[tuple[Any, ...]]:
        last = session.scalar(select(func.max(self._key))) or 0
        if last - self._counted_to > 2 * _NEWEST:
            up_to = last - _NEWEST
            # The first count covers nearly all rows: coalesce keeps SQLite from walking them by id where a smaller
            # index suffices.
            from_first = func.coalesce(self._key, self._key) <= up_to
            between = and_(self._key > self._counted_to, self._key <= up_to)
            self._counted += self._of(session, between if self._counted_to else from_first)
            self._counted_to = up_to
        return self._counted + self._of(session, and_(self._key > self._counted_to, self._key <= last))

    def _of(self, session: Session, chosen: ColumnElement[bool]) -> Counter[tuple[Any, ...]]:
        query = select(*self._by, func.count()).select_from(self._table).where(chosen).group_by(*self._by)
        return Counter({tuple(values): number for *values, number in session.execute(query)})


class RunningTotals:
    """Reads the totals; create it once per process, because it remembers how far it has counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instances = _AppendOnlyCount(InstanceRow)
        self._series = _AppendOnlyCount(SeriesRow)
        self._jobs = _AppendOnlyCount(JobRow)
        self._results = _AppendOnlyCount(ResultRow, ResultRow.model_id, ResultRow.label, ResultRow.reason)
        self._studies = _AppendOnlyCount(StudyRow)
        answer = StudyResultRow
        self._study_results = _AppendOnlyCount(
            answer, answer.model_id, answer.label, answer.reason, answer.contradiction.is_not(None)
        )
        self._deliveries = _AppendOnlyCount(DeliveryRow, DeliveryRow.destination)

    def read(self, session: Session) -> Totals:
        """The totals now. Concurrent callers wait, so that a slow database runs a single count."""
        with self._lock:
            series = self._series.count(session).total()
            refused = _refused(session)
            open_series = _by(session, SeriesRow.status, (SeriesStatus.PENDING, SeriesStatus.FAILED))
            open_series[SeriesStatus.REFUSED.value] = sum(refused.values())
            jobs = _by(session, JobRow.state, _NOT_DONE)
            results = self._results.count(session)
            named = session.execute(select(ModelRow.id, ModelRow.name, ModelRow.version))
            models = {number: f"{name} {version}" for number, name, version in named}
            by_class, not_assessed = _by_class(results, models)
            answers = self._study_results.count(session)
            studies_by_class, studies_without = _by_class(answers, models)
            studies = _by(session, StudyRow.state, (StudyState.OPEN, StudyState.PARKED))
            answered = self._studies.count(session).total() - sum(studies.values())
            return Totals(
                instances_received=self._instances.count(session).total(),
                series_received=series,
                series=open_series | {"answered": series - sum(open_series.values())},
                refused=refused,
                oldest_series=session.scalar(
                    select(func.min(SeriesRow.created_at)).where(SeriesRow.status == SeriesStatus.PENDING)
                ),
                jobs=jobs | {JobState.DONE.value: self._jobs.count(session).total() - sum(jobs.values())},
                oldest_job=_created_at_of_oldest_job(session, JobRow.state == JobState.PENDING),
                oldest_urgent_job=_created_at_of_oldest_job(session, URGENT),
                studies=studies | {StudyState.ANSWERED.value: answered},
                oldest_study=_oldest_open_study(session),
                study_results=dict(studies_by_class),
                studies_without=dict(studies_without),
                contradictions=sum(number for key, number in answers.items() if key[3]),
                results=dict(by_class),
                not_assessed=dict(not_assessed),
                deliveries={
                    name: _destination_totals(session, name, number)
                    for (name,), number in sorted(self._deliveries.count(session).items())
                },
            )


def _by(session: Session, column: Any, values: Any) -> dict[str, int]:
    """Numbers of rows by these values of a column, 0 included."""
    query = select(column, func.count()).where(column.in_(values)).group_by(column)
    return {value.value: 0 for value in values} | {value: number for value, number in session.execute(query)}


def _refused(session: Session) -> dict[str, int]:
    """Refused series by reason."""
    query = (
        select(SeriesRow.reason, func.count()).where(REFUSED, SeriesRow.reason.is_not(None)).group_by(SeriesRow.reason)
    )
    return {str(reason): number for reason, number in session.execute(query)}


def _by_class(
    results: Counter[tuple[Any, ...]], models: Mapping[int, str]
) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Of numbers by (model, label, reason, ...): by (model, class), and those without a class by reason."""
    by_class: Counter[tuple[str, str]] = Counter()
    not_assessed: Counter[str] = Counter()
    for (model_id, label, reason, *_), number in results.items():
        by_class[models[model_id], "not-assessed" if reason else label] += number
        if reason:
            not_assessed[reason] += number
    return by_class, not_assessed


def _created_at_of_oldest_job(session: Session, condition: Any) -> datetime | None:
    oldest = select(func.min(JobRow.id)).where(condition).scalar_subquery()
    return session.scalar(select(JobRow.created_at).where(JobRow.id == oldest))


def _oldest_open_study(session: Session) -> datetime | None:
    """When the last image came of the open study that waits longest, among those that were opened first."""
    first = select(StudyRow.study_instance_uid).where(StudyRow.state == StudyState.OPEN).order_by(StudyRow.id)
    oldest = first.limit(_OPEN_STUDIES).subquery()
    changed_at = func.max(SeriesRow.last_received_at)
    longest: datetime | None = session.scalar(
        select(changed_at)
        .join(oldest, oldest.c.study_instance_uid == SeriesRow.study_instance_uid)
        .group_by(SeriesRow.study_instance_uid)
        .order_by(changed_at)
        .limit(1)
    )
    return longest


def _destination_totals(session: Session, destination: str, deliveries: int) -> DestinationTotals:
    """`deliveries`: the number of all deliveries to this destination so far."""
    of_destination = DeliveryRow.destination == destination
    states = {state.value: 0 for state in DeliveryState}
    oldest: list[int] = []
    query = (
        select(DeliveryRow.state, func.count(), func.min(DeliveryRow.id))
        .where(of_destination, DeliveryRow.state.in_(set(DeliveryState) - {DeliveryState.DELIVERED}))
        .group_by(DeliveryRow.state)
    )
    for state, number, first in session.execute(query):
        states[state] = number
        if state in _WAITING:
            oldest.append(first)
    states[DeliveryState.DELIVERED.value] = deliveries - sum(states.values())
    oldest_result = (
        select(func.coalesce(ResultRow.created_at, StudyResultRow.created_at))
        .select_from(DeliveryRow)
        .join(ObjectRow, ObjectRow.id == DeliveryRow.object_id)
        .outerjoin(ResultRow, ResultRow.id == ObjectRow.result_id)
        .outerjoin(StudyResultRow, StudyResultRow.id == ObjectRow.study_result_id)
        .where(DeliveryRow.id == min(oldest, default=None))
    )
    uncommitted = (
        select(DeliveryRow.commitment, func.count()).where(of_destination, UNCOMMITTED).group_by(DeliveryRow.commitment)
    )
    commitments = {Commitment.DUE.value: 0, Commitment.REQUESTED.value: 0}
    commitments |= {str(state): number for state, number in session.execute(uncommitted)}
    return DestinationTotals(states, session.scalar(oldest_result) if oldest else None, commitments)
