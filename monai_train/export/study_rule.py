"""Fit how the sequences of a study count together (docs/bundle.md, "study"), on patients with several sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from monai_train.evaluation.studies.fusion_figures import StudyCase
from monai_train.export.decision import balanced_weights
from worker.inference.study.fusion import EQUAL_WEIGHTS, StudyRule, pooled_lesion_probability
from worker.results import ModelIdentity, SeriesAnswer

_LEAST_PATIENTS = 8  # of each truth, with several assessed sequences
_PENALTY = 0.02  # on the squared logarithm of a weight, so that what was hardly seen stays near 1
_SPAN = 2.0  # a weight is within a factor of e**2 of 1
_RIGHT = 0.9  # of the answers where series contradict each other
_LEAST_CONTRADICTIONS = 8
_LEVELS = (0.6, 0.7, 0.8)  # below the level that holds without a fit


def fit_study_rule(cases: Sequence[StudyCase], model: ModelIdentity) -> dict[str, Any] | None:
    """The "study" of worker.json; None with too few patients of either truth, for whom equal weights hold.

    The weights maximise the likelihood of lesion or none, both truths weighted alike, patients too.
    """
    assessed = [(case, [item for item in case.series if item.label is not None]) for case in cases]
    several = [(case, own) for case, own in assessed if len({item.sequence for item in own}) > 1]
    if min(_patients(several, lesion) for lesion in (True, False)) < _LEAST_PATIENTS:
        return None
    names = sorted({item.sequence or "" for _, own in several for item in own} - {""})
    importance = balanced_weights([(case.lesion, case.patient) for case, _ in several])
    truth = np.array([case.lesion for case, _ in several])

    def loss(logarithms: npt.NDArray[np.float64]) -> float:
        probability = _pooled(several, _rule(names, logarithms))
        surprise = -np.log(np.where(truth, probability, 1 - probability))
        return float((importance * surprise).sum() + _PENALTY * np.square(logarithms).sum())

    found = minimize(loss, np.zeros(len(names)), bounds=[(-_SPAN, _SPAN)] * len(names), method="L-BFGS-B").x
    rule = StudyRule(weights={name: round(weight, 4) for name, weight in _rule(names, found).weights.items()})
    lesion_from, no_lesion_to = _limits(several, _pooled(several, rule), truth, model)
    return {
        "weights": dict(rule.weights),
        "most_certain": rule.most_certain,
        "lesion_from": lesion_from,
        "no_lesion_to": no_lesion_to,
        "minimum_kind": rule.minimum_kind,
    }


_Several = Sequence[tuple[StudyCase, Sequence[SeriesAnswer]]]


def _patients(several: _Several, lesion: bool) -> int:
    return len({case.patient for case, _ in several if case.lesion == lesion})


def _rule(names: Sequence[str], logarithms: npt.NDArray[np.float64]) -> StudyRule:
    return StudyRule(weights={name: float(np.exp(own)) for name, own in zip(names, logarithms, strict=True)})


def _pooled(several: _Several, rule: StudyRule) -> npt.NDArray[np.float64]:
    """P(lesion) of each study, [n]."""
    return np.array([pooled_lesion_probability(own, rule) for _, own in several])


def _limits(
    several: _Several, probability: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], model: ModelIdentity
) -> tuple[float, float]:
    """(lesion_from, no_lesion_to) for series that contradict each other: the widest that are right in 90 %."""
    contradict = np.array(
        [len({model.class_named(item.label or "").is_lesion for item in own}) > 1 for _, own in several]
    )
    lesion_from, no_lesion_to = EQUAL_WEIGHTS.lesion_from, EQUAL_WEIGHTS.no_lesion_to
    for level in reversed(_LEVELS):
        for_lesion, for_none = contradict & (probability >= level), contradict & (probability <= 1 - level)
        if _is_right(truth[for_lesion]):
            lesion_from = level
        if _is_right(~truth[for_none]):
            no_lesion_to = round(1 - level, 3)
    return lesion_from, no_lesion_to


def _is_right(right: npt.NDArray[np.bool_]) -> bool:
    return len(right) >= _LEAST_CONTRADICTIONS and bool(right.mean() >= _RIGHT)
