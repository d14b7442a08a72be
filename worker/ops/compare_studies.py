"""Compare two models on studies: the stored answers for their series, fused by the rule of each model's bundle."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from worker.db.engine import Session
from worker.db.studies.comparing import ComparedSeries, StoredAnswer, compared_studies
from worker.db.tables import ModelRow
from worker.db.views.model_comparison import Comparison, comparison_of
from worker.inference.study.fusion import StudyRule, fuse, lesion_of
from worker.results import ModelIdentity, SeriesAnswer


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """A model by its row, as its bundle says what it is and how it fuses."""

    row: int
    identity: ModelIdentity
    rule: StudyRule


def compare_studies(session: Session, first: ComparedModel, second: ComparedModel) -> Comparison:
    """Fuse and compare every study of which both models processed a series, by the series that both processed.

    What readers found in these studies is compared with both. The memory is that of one study.
    """
    answers: Counter[tuple[str | None, str | None]] = Counter()
    read: Counter[tuple[str | None, str | None, str]] = Counter()
    for study in compared_studies(session, first.row, second.row):
        one = _fused([(item, item.first) for item in study.series], first)
        other = _fused([(item, item.second) for item in study.series], second)
        answers[one, other] += 1
        if study.read_as is not None:
            read[one, other, study.read_as] += 1
    rows = [session.get_one(ModelRow, model.row) for model in (first, second)]
    return comparison_of(
        rows[0], rows[1], [(*key, n) for key, n in answers.items()], [(*key, n) for key, n in read.items()]
    )


def _fused(series: list[tuple[ComparedSeries, StoredAnswer]], model: ComparedModel) -> str | None:
    """The class of a study; None where it is not assessed."""
    return fuse([_as_fused(item, answer, model.identity) for item, answer in series], model.identity, model.rule).label


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
