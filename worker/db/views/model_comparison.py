"""Models: their states, where they cannot be loaded, and how two of them compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from worker.config.routing import ActiveModel, RouteSection, reasons_to_wait
from worker.db import models
from worker.db.readings import Labels, is_finding, is_right
from worker.db.studies.comparing import answers_of
from worker.db.tables import LoadState, ModelRow, ModelState, ReadingRow

NOT_ASSESSED = "not-assessed"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model's state. `sha256` is its bundle's hash; `not_loaded` names each host that cannot load it, and why."""

    name: str
    version: str
    state: str
    state_at: datetime
    state_by: str
    added_at: datetime
    sha256: str
    not_loaded: str | None


def model_statuses(session: Session) -> list[ModelStatus]:
    """Every model, newest first."""
    faults = load_faults(session)
    return [
        ModelStatus(
            name=row.name,
            version=row.version,
            state=row.state,
            state_at=row.state_at,
            state_by=row.state_by,
            added_at=row.added_at,
            sha256=row.sha256,
            not_loaded=faults.get(row.sha256),
        )
        for row in models.all_models(session)
    ]


def load_faults(session: Session) -> dict[str, str]:
    """Bundle hash → hosts that cannot load it and why, of the models in use."""
    faults: dict[str, str] = {}
    for model, load in models.model_loads(session):
        if load.state == LoadState.FAILED:
            fault = f"{load.host}: {load.detail}"
            faults[model.sha256] = f"{faults[model.sha256]}; {fault}" if model.sha256 in faults else fault
    return faults


def unserved_models(session: Session) -> list[str]:
    """A sentence per active model that no host can load, so that its series wait."""
    outcomes: dict[str, set[str]] = {}
    for model, load in models.model_loads(session):
        if model.state == ModelState.ACTIVE:
            outcomes.setdefault(f"{model.name} {model.version}", set()).add(load.state)
    return [f"{name} cannot be loaded on any host" for name, states in outcomes.items() if states == {LoadState.FAILED}]


def awaited_models(session: Session, routes: Sequence[RouteSection]) -> list[str]:
    """The models that series wait for because no active model matches their route."""
    active, _ = models.models_in_use(session)
    return reasons_to_wait(routes, [ActiveModel(row.id, row.name, row.version) for row in active])


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """The number `n` of input sets with answer `first` of the first and `second` of the second model."""

    first: str
    second: str
    n: int


@dataclass(frozen=True, slots=True)
class AgainstReaders:
    """A model's answers on what has a reader's finding, as `readings.is_right` judges them.

    A kind that a model names where the reader knows none is neither right nor wrong.
    """

    right: int
    wrong: int
    not_assessed: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the input sets, or the studies, that both have processed, in shadow or not.

    `agreement`: of those to which both gave a class, the fraction with the same class; None if there are none.
    `read`: the number of those that have a reader's finding, of an input set its series.
    """

    first: str
    second: str
    n: int
    classified_by_both: int
    agree: int
    agreement: float | None
    first_not_assessed: int
    second_not_assessed: int
    confusion: tuple[ConfusionCell, ...]
    read: int
    first_against_readers: AgainstReaders
    second_against_readers: AgainstReaders


def compare_models(session: Session, first: ModelRow, second: ModelRow) -> Comparison:
    """Compare two models' answers on the same input sets with each other and with the readers' labels."""
    of_first, of_second = answers_of(first.id, "of_first"), answers_of(second.id, "of_second")
    answers = (of_first.c.label, of_second.c.label)
    same = and_(of_first.c.series_id == of_second.c.series_id, of_first.c.input_sha256 == of_second.c.input_sha256)
    number = func.count()
    cells = session.execute(select(*answers, number).join_from(of_first, of_second, same).group_by(*answers))
    newest = (
        select(ReadingRow.series_id, func.max(ReadingRow.number).label("number"))
        .where(ReadingRow.withdrawn_at.is_(None))
        .group_by(ReadingRow.series_id)
        .subquery("newest")
    )
    of_newest = and_(ReadingRow.series_id == newest.c.series_id, ReadingRow.number == newest.c.number)
    read = session.execute(
        select(*answers, ReadingRow.label, number)
        .join_from(of_first, of_second, same)
        .join(ReadingRow, ReadingRow.series_id == of_first.c.series_id)
        .join(newest, of_newest)
        .group_by(*answers, ReadingRow.label)
    )
    return comparison_of(first, second, [tuple(row) for row in cells], [tuple(row) for row in read])


def comparison_of(
    first: ModelRow,
    second: ModelRow,
    answers: Iterable[tuple[str | None, str | None, int]],
    read: Iterable[tuple[str | None, str | None, str, int]],
) -> Comparison:
    """Compare two models by the number of each pair of their answers, and of each pair with a reader's label.

    An answer is None where a model gave no class.
    """
    cells = [ConfusionCell(one or NOT_ASSESSED, two or NOT_ASSESSED, n) for one, two, n in answers]
    confusion = tuple(sorted(cells, key=lambda cell: (cell.first, cell.second)))
    both = [cell for cell in confusion if NOT_ASSESSED not in (cell.first, cell.second)]
    classified, agree = sum(cell.n for cell in both), sum(cell.n for cell in both if cell.first == cell.second)
    read = [row for row in read if is_finding(row[2], first.labels) or is_finding(row[2], second.labels)]
    return Comparison(
        first=f"{first.name} {first.version}",
        second=f"{second.name} {second.version}",
        n=sum(cell.n for cell in confusion),
        classified_by_both=classified,
        agree=agree,
        agreement=agree / classified if classified else None,
        first_not_assessed=sum(cell.n for cell in confusion if cell.first == NOT_ASSESSED),
        second_not_assessed=sum(cell.n for cell in confusion if cell.second == NOT_ASSESSED),
        confusion=confusion,
        read=sum(row[3] for row in read),
        first_against_readers=_against_readers([(row[0], row[2], row[3]) for row in read], first.labels),
        second_against_readers=_against_readers([(row[1], row[2], row[3]) for row in read], second.labels),
    )


def _against_readers(rows: list[tuple[str | None, str, int]], labels: Labels | None) -> AgainstReaders:
    counts: Counter[bool | None] = Counter()
    not_assessed = sum(n for answer, _, n in rows if answer is None)
    for answer, label, n in rows:
        counts[is_right(label, answer, labels)] += n
    return AgainstReaders(counts[True], counts[False], not_assessed)
