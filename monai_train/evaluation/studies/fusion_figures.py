"""Whether the answer for a study is better than that of each of its sequences alone, on the same patients.

Figures are of "lesion or none". A study that is not assessed counts as answered wrongly, for the fused answer and for a
sequence alone alike, so that declining is no way to a better figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_train.data.labels import NO_TUMOUR, Classes
from monai_train.evaluation.intervals import Estimate, estimates, paired_differences
from monai_train.evaluation.metrics import Predictions
from monai_train.evaluation.studies.series_answers import Outputs, study_of
from worker.inference.bundle import Bundle
from worker.inference.study.fusion import SERIES_DISAGREE, StudyRule, fuse
from worker.results import ModelIdentity, SeriesAnswer

_QUESTION = Classes(("lesion", NO_TUMOUR), 1)
_FIGURES = ("balanced_accuracy", "sensitivity", "specificity")


@dataclass(frozen=True, slots=True)
class StudyCase:
    """A patient's series of one truth, as a study: whether they show a lesion."""

    patient: str
    lesion: bool
    series: tuple[SeriesAnswer, ...]

    @property
    def sequences(self) -> set[str]:
        return {item.sequence for item in self.series if item.sequence}


def study_cases(bundle: Bundle, outputs: Outputs, truths: Sequence[int], no_lesion: int) -> list[StudyCase]:
    """The slices of each patient and truth as a study; slices of no known truth (below 0) are left out.

    `truths` [n] are indices of classes, `no_lesion` that of the class without a finding.
    """
    members: dict[tuple[str, bool], list[int]] = {}
    for index, (row, truth) in enumerate(zip(outputs.rows, truths, strict=True)):
        if truth >= 0:
            members.setdefault((row.patient_group, truth != no_lesion), []).append(index)
    return [
        StudyCase(patient, lesion, tuple(study_of(bundle, outputs, own))) for (patient, lesion), own in members.items()
    ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A sequence alone against all sequences together, on the `n` studies that have it."""

    sequence: str
    n: int
    alone: Mapping[str, Estimate]
    fused: Mapping[str, Estimate]
    difference: Estimate  # of balanced accuracy: fused minus alone
    alone_not_assessed: float
    fused_not_assessed: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "n": self.n,
            "alone": {name: self.alone[name].to_json() for name in _FIGURES},
            "fused": {name: self.fused[name].to_json() for name in _FIGURES},
            "difference": self.difference.to_json(),
            "not_assessed": {"alone": self.alone_not_assessed, "fused": self.fused_not_assessed},
        }

    @property
    def verdict(self) -> str:
        """Whether all sequences together are better than this sequence, by the interval of the difference."""
        value, low, high = self.difference.value, self.difference.low, self.difference.high
        alone, fused = (figures["balanced_accuracy"].text(True) for figures in (self.alone, self.fused))
        figures = f"balanced accuracy {fused} together, {alone} alone, n={self.n}"
        if value is None or low is None or high is None:
            return f"{self.sequence}: too few studies to compare ({figures})"
        span = f"{100 * value:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f}"
        better = "is better than" if low > 0 else "is WORSE than" if high < 0 else "is not shown to be better than"
        return f"all sequences together {better} {self.sequence} alone: {span} ({figures})"


@dataclass(frozen=True, slots=True)
class StudyFigures:
    """The figures of patients with several sequences; `disagree` studies are not assessed as their series disagree."""

    n: int
    patients: int
    disagree: int
    fused: Mapping[str, Estimate]
    comparisons: tuple[Comparison, ...]

    @property
    def best(self) -> Comparison:
        """That with the sequence which is best alone."""
        return max(self.comparisons, key=lambda item: item.alone["balanced_accuracy"].value or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, and the verdict against the best sequence alone."""
        return {
            "n": self.n,
            "patients": self.patients,
            "series_disagree": self.disagree,
            "fused": {name: self.fused[name].to_json() for name in _FIGURES},
            "by_sequence": {item.sequence: item.to_json() for item in self.comparisons},
            "best_sequence": self.best.sequence,
            "verdict": self.best.verdict,
        }


def study_figures(cases: Sequence[StudyCase], model: ModelIdentity, rule: StudyRule) -> StudyFigures | None:
    """The figures of the studies with several sequences; None without any."""
    several = [case for case in cases if len(case.sequences) > 1]
    if not several:
        return None
    names = sorted(set().union(*(case.sequences for case in several)))
    fused = [fuse(case.series, model, rule) for case in several]
    return StudyFigures(
        n=len(several),
        patients=len({case.patient for case in several}),
        disagree=sum(result.reason == SERIES_DISAGREE for result in fused),
        fused=estimates(_predictions(several, [result.label for result in fused], model)),
        comparisons=tuple(_compare(name, several, model, rule) for name in names),
    )


def _compare(sequence: str, cases: Sequence[StudyCase], model: ModelIdentity, rule: StudyRule) -> Comparison:
    own = [case for case in cases if sequence in case.sequences]
    together = [fuse(case.series, model, rule).label for case in own]
    alone = [fuse([item for item in case.series if item.sequence == sequence], model, rule).label for case in own]
    of_all, of_sequence = _predictions(own, together, model), _predictions(own, alone, model)
    return Comparison(
        sequence=sequence,
        n=len(own),
        alone=estimates(of_sequence),
        fused=estimates(of_all),
        difference=paired_differences(of_all, of_sequence)["balanced_accuracy"],
        alone_not_assessed=float(np.mean([label is None for label in alone])),
        fused_not_assessed=float(np.mean([label is None for label in together])),
    )


def _predictions(cases: Sequence[StudyCase], labels: Sequence[str | None], model: ModelIdentity) -> Predictions:
    """Lesion or none; no answer where the label is None."""
    rows = [
        [np.nan, np.nan] if label is None else [1.0, 0.0] if model.class_named(label).is_lesion else [0.0, 1.0]
        for label in labels
    ]
    return Predictions(
        _QUESTION,
        np.array([0 if case.lesion else 1 for case in cases], np.int64),
        np.array(rows, np.float32).reshape(-1, 2),
        np.array([case.patient for case in cases], np.str_),
        np.array([label is not None for label in labels], bool),
    )
