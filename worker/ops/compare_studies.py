"""Compare two models on studies: the stored answers for their series, fused by the rule of each model's bundle."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from worker.db.engine import Session
from worker.db.studies.comparing import ComparedSeries, StoredAnswer, compared_studies
from worker.db.views.model_comparison import NOT_ASSESSED, ConfusionCell
from worker.inference.study.fusion import StudyRule, fuse, lesion_of
from worker.results import ModelIdentity, SeriesAnswer


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """A model by its row, as its bundle says what it is and how it fuses."""

    row: int
    identity: ModelIdentity
    rule: StudyRule


@dataclass(frozen=True, slots=True)
class StudyComparison:
    """Two models on the `n` studies of which both processed a series, by the series that both processed.

    `agreement`: of the studies to which both gave an answer, the fraction with the same; None if there are none.
    """

    n: int
    classified_by_both: int
    agree: int
    agreement: float | None
    first_not_assessed: int
    second_not_assessed: int
    confusion: tuple[ConfusionCell, ...]


def compare_studies(session: Session, first: ComparedModel, second: ComparedModel) -> StudyComparison:
    """Fuse and compare every study; the memory is that of one study."""
    cells: Counter[tuple[str, str]] = Counter()
    for _, series in compared_studies(session, first.row, second.row):
        one = _fused([(item, item.first) for item in series], first)
        other = _fused([(item, item.second) for item in series], second)
        cells[one, other] += 1
    both = {cell: number for cell, number in cells.items() if NOT_ASSESSED not in cell}
    classified, agree = sum(both.values()), sum(number for (one, other), number in both.items() if one == other)
    return StudyComparison(
        n=cells.total(),
        classified_by_both=classified,
        agree=agree,
        agreement=agree / classified if classified else None,
        first_not_assessed=sum(number for (one, _), number in cells.items() if one == NOT_ASSESSED),
        second_not_assessed=sum(number for (_, other), number in cells.items() if other == NOT_ASSESSED),
        confusion=tuple(ConfusionCell(*cell, number) for cell, number in sorted(cells.items())),
    )


def _fused(series: list[tuple[ComparedSeries, StoredAnswer]], model: ComparedModel) -> str:
    result = fuse([_as_fused(item, answer, model.identity) for item, answer in series], model.identity, model.rule)
    return result.label or NOT_ASSESSED


def _as_fused(item: ComparedSeries, answer: StoredAnswer, model: ModelIdentity) -> SeriesAnswer:
    basis = answer.basis or {}
    lesion = basis.get("lesion_probability")
    return SeriesAnswer(
        series=item.series_instance_uid,
        number=None,
        sequence=basis.get("sequence") or item.sequence,
        plane=basis.get("plane") or item.plane,
        label=answer.label if answer.reason is None else None,
        reason=answer.reason,
        lesion_probability=lesion if lesion is not None else lesion_of(answer.probabilities, model),
        probabilities=dict(answer.probabilities),
    )
