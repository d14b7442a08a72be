"""Models as people look at them: their states, and where they could not be loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Subquery, and_, func, select, union_all
from sqlalchemy.orm import Session

from worker.config.routing import RouteSection, Target, awaited
from worker.db import models
from worker.db.readings import OTHER_LABELS
from worker.db.tables import JobRow, LoadState, ModelRow, ModelState, ReadingRow, ResultRow, ShadowResultRow

NOT_ASSESSED = "not-assessed"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """`sha256` is the hash of its bundle; `not_loaded` names each host that could not load it, with the reason."""

    name: str
    version: str
    state: str
    state_at: datetime
    state_by: str
    added_at: datetime
    sha256: str
    not_loaded: str | None


def model_statuses(session: Session) -> list[ModelStatus]:
    """Newest first."""
    faults = load_faults(session)
    return [
        ModelStatus(
            name=one.name,
            version=one.version,
            state=one.state,
            state_at=one.state_at,
            state_by=one.state_by,
            added_at=one.added_at,
            sha256=one.sha256,
            not_loaded=faults.get(one.sha256),
        )
        for one in models.all_models(session)
    ]


def load_faults(session: Session) -> dict[str, str]:
    """Bundle hash → the hosts that could not load it, with the reasons; of the models that are in use."""
    faults: dict[str, str] = {}
    for model, load in models.model_loads(session):
        if load.state == LoadState.FAILED:
            said = f"{load.host}: {load.detail}"
            faults[model.sha256] = f"{faults[model.sha256]}; {said}" if model.sha256 in faults else said
    return faults


def unserved_models(session: Session) -> list[str]:
    """Active models that no host which tried could load: their series wait."""
    outcomes: dict[str, set[str]] = {}
    for model, load in models.model_loads(session):
        if model.state == ModelState.ACTIVE:
            outcomes.setdefault(f"{model.name} {model.version}", set()).add(load.state)
    return [f"{name} cannot be loaded on any host" for name, states in outcomes.items() if states == {LoadState.FAILED}]


def awaited_models(session: Session, routes: Sequence[RouteSection]) -> list[str]:
    """What the rules, or the lack of any active model, make series wait for."""
    active, _ = models.models_in_use(session)
    return awaited(routes, [Target(one.id, one.name, one.version) for one in active])


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """On so many input sets the first model said `first` and the second `second`: a class, or not-assessed."""

    first: str
    second: str
    n: int


@dataclass(frozen=True, slots=True)
class AgainstReaders:
    """How one model did on the input sets whose series a reader has labelled with a class."""

    right: int
    wrong: int
    not_assessed: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the input sets that both have seen, in shadow or not.

    `agreement` is the fraction of the sets that both gave a class on which the classes are the same, None without any.
    `read` counts the sets whose series has a reader's class.
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
    """What two models said of the same input sets, and of the readers' labels."""
    one, two = _said(first.id, "one"), _said(second.id, "two")
    same = and_(one.c.series_id == two.c.series_id, one.c.input_sha256 == two.c.input_sha256)
    number = func.count()
    cells = session.execute(select(one.c.said, two.c.said, number).join(two, same).group_by(one.c.said, two.c.said))
    confusion = tuple(sorted((ConfusionCell(*row) for row in cells), key=lambda cell: (cell.first, cell.second)))
    both = [cell for cell in confusion if NOT_ASSESSED not in (cell.first, cell.second)]
    classified, agree = sum(cell.n for cell in both), sum(cell.n for cell in both if cell.first == cell.second)
    newest = (
        select(ReadingRow.series_id, func.max(ReadingRow.number).label("number"))
        .group_by(ReadingRow.series_id)
        .subquery("newest")
    )
    of_newest = and_(ReadingRow.series_id == newest.c.series_id, ReadingRow.number == newest.c.number)
    read = session.execute(
        select(one.c.said, two.c.said, ReadingRow.label, number)
        .join(two, same)
        .join(ReadingRow, ReadingRow.series_id == one.c.series_id)
        .join(newest, of_newest)
        .where(ReadingRow.label.not_in(list(OTHER_LABELS)))
        .group_by(one.c.said, two.c.said, ReadingRow.label)
    ).all()
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
        first_against_readers=_against_readers([(row[0], row[2], row[3]) for row in read]),
        second_against_readers=_against_readers([(row[1], row[2], row[3]) for row in read]),
    )


def _said(model_id: int, name: str) -> Subquery:
    """A row for each input set that a model has answered: its class, or not-assessed."""
    parts = [
        select(JobRow.series_id, JobRow.input_sha256, func.coalesce(row.label, NOT_ASSESSED).label("said"))
        .join(row, row.job_id == JobRow.id)
        .where(JobRow.model_id == model_id)
        for row in (ResultRow, ShadowResultRow)
    ]
    return union_all(*parts).subquery(name)


def _against_readers(rows: list[tuple[Any, str, int]]) -> AgainstReaders:
    counts: Counter[str] = Counter()
    for said, label, n in rows:
        counts["not assessed" if said == NOT_ASSESSED else "right" if said == label else "wrong"] += n
    return AgainstReaders(counts["right"], counts["wrong"], counts["not assessed"])
