"""Every figure of a report with its 95 % interval over 2,000 resamples of patients, and with its own n.

A resample gives every patient a weight (how often it was drawn), so each figure is a function of weights
[draws, n] → [draws]: weights of one give the figure itself, and the same draws for two models give a paired difference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_train.data.labels import ANY_TUMOUR, CLASS_NAMES, NO_TUMOUR
from monai_train.evaluation.metrics import (
    BINS,
    BOOTSTRAP_SAMPLES,
    UNREADABLE,
    BoolArray,
    FigureArray,
    Predictions,
    balanced_accuracy,
    confidences,
    recalls,
    sensitivity,
    specificity,
)

_CHUNK = 100


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its 95 % interval and the number of answers it is a share of; None where that number leaves none."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values."""
        return asdict(self)


def patient_draws(groups: npt.NDArray[np.str_], seed: int = 0) -> npt.NDArray[np.int64]:
    """How often each answer's patient is drawn, [2,000, n]; the same for the same groups."""
    names, index = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), BOOTSTRAP_SAMPLES)
    return np.asarray(drawn[:, index])


def weighted_figures(predictions: Predictions, weights: npt.NDArray[Any]) -> dict[str, FigureArray]:
    """Every figure for every row of `weights` [draws, n] → [draws] each, NaN where it is not defined.

    Named `accuracy`, `auc.tumour`, `recall.glioma`, ...: figures of all, of tumour against none, of one class.
    Abstention is not looked at.
    """
    weights = weights.astype(np.float64)
    size = len(CLASS_NAMES) + 1
    cell = np.eye(size * size)[predictions.truth * size + predictions.predicted]
    confusion = (weights @ cell).reshape(-1, size, size)
    total = confusion.sum(axis=(1, 2))
    shares = recalls(confusion)
    found: dict[str, FigureArray] = {
        "accuracy": _ratio((np.nan_to_num(shares) * confusion.sum(axis=2)).sum(axis=1), total),
        "balanced_accuracy": balanced_accuracy(confusion),
        "mcc": _matthews(confusion[:, : len(CLASS_NAMES)]),
        "ece": _calibration(predictions, weights),
        "brier": _brier(predictions, weights),
        "sensitivity": sensitivity(confusion),
        "specificity": specificity(confusion),
    }
    for name, chosen, positive, score in questions(predictions):
        found[f"auc.{name}"] = weighted_auc(score[chosen], positive[chosen], weights[:, chosen])
        found[f"average_precision.{name}"] = weighted_precision(score[chosen], positive[chosen], weights[:, chosen])
    kinds = confusion[:, : len(CLASS_NAMES)]
    for index, name in enumerate(CLASS_NAMES):
        right, called, support = kinds[:, index, index], kinds[:, :, index].sum(axis=1), kinds[:, index].sum(axis=1)
        others = kinds.sum(axis=(1, 2)) - support
        found[f"precision.{name}"] = _ratio(right, called)
        found[f"recall.{name}"] = _ratio(right, support)
        found[f"specificity.{name}"] = _ratio(others - called + right, others)
        found[f"f1.{name}"] = _ratio(2 * right, called + support)
    return found


def counts(predictions: Predictions) -> dict[str, int]:
    """The n of every figure that `weighted_figures` names."""
    truth, predicted = predictions.truth, predictions.predicted
    known = truth != ANY_TUMOUR
    answered = predicted != UNREADABLE
    n = {
        "accuracy": len(truth),
        "balanced_accuracy": len(truth),
        "mcc": int(known.sum()),
        "ece": int(answered.sum()),
        "brier": int((known & answered).sum()),
        "sensitivity": int((truth != NO_TUMOUR).sum()),
        "specificity": int((truth == NO_TUMOUR).sum()),
    }
    for name, chosen, _, _ in questions(predictions):
        n[f"auc.{name}"] = n[f"average_precision.{name}"] = int(chosen.sum())
    for index, name in enumerate(CLASS_NAMES):
        n[f"precision.{name}"] = int((known & (predicted == index)).sum())
        n[f"recall.{name}"] = int((truth == index).sum())
        n[f"specificity.{name}"] = int((known & (truth != index)).sum())
        n[f"f1.{name}"] = int((known & ((truth == index) | (predicted == index))).sum())
    return n


def estimates(predictions: Predictions) -> dict[str, Estimate]:
    """Every figure with its patient bootstrap interval."""
    if not len(predictions.truth):
        return {}
    value = weighted_figures(predictions, np.ones((1, len(predictions.truth))))
    spread = resampled(predictions, patient_draws(predictions.groups))
    n = counts(predictions)
    return {name: _estimate(value[name][0], spread[name], n[name]) for name in value}


def resampled(predictions: Predictions, draws: npt.NDArray[np.int64]) -> dict[str, FigureArray]:
    """`weighted_figures` of many draws [draws, n], a part of them at a time."""
    parts = [weighted_figures(predictions, draws[start : start + _CHUNK]) for start in range(0, len(draws), _CHUNK)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def paired_differences(ours: Predictions, theirs: Predictions) -> dict[str, Estimate]:
    """Ours minus theirs for every figure, both on the same resampled patients.

    Raises ValueError when the two do not answer the same questions in the same order.
    """
    if not (np.array_equal(ours.truth, theirs.truth) and np.array_equal(ours.groups, theirs.groups)):
        raise ValueError("a paired difference needs the same pictures in the same order")
    draws, one = patient_draws(ours.groups), np.ones((1, len(ours.truth)))
    values = weighted_figures(ours, one), weighted_figures(theirs, one)
    spreads = resampled(ours, draws), resampled(theirs, draws)
    n = counts(ours)
    return {
        name: _estimate(values[0][name][0] - values[1][name][0], spreads[0][name] - spreads[1][name], n[name])
        for name in values[0]
    }


def share_estimate(hits: BoolArray, groups: npt.NDArray[np.str_]) -> Estimate:
    """The share of `hits` [n] with its patient bootstrap interval."""
    draws = patient_draws(groups).astype(np.float64)
    value = np.float64(hits.mean() if len(hits) else np.nan)
    return _estimate(value, _ratio(draws @ hits, draws.sum(axis=1)), len(hits))


def _estimate(value: np.floating[Any], spread: FigureArray, n: int) -> Estimate:
    spread = spread[np.isfinite(spread)]
    if not np.isfinite(value) or not len(spread):
        return Estimate(None, None, None, n)
    low, high = np.percentile(spread, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high), n)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> FigureArray:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0))


def _matthews(confusion: npt.NDArray[Any]) -> FigureArray:
    """Matthews' coefficient of known kinds [draws, classes, classes + unreadable] (Gorodkin 2004)."""
    total, right = confusion.sum(axis=(1, 2)), np.trace(confusion, axis1=1, axis2=2)
    truths, calls = confusion.sum(axis=2), confusion.sum(axis=1)
    both = (truths * calls[:, : len(CLASS_NAMES)]).sum(axis=1)
    spread = (total**2 - (truths**2).sum(axis=1)) * (total**2 - (calls**2).sum(axis=1))
    return _ratio(right * total - both, np.sqrt(np.maximum(spread, 0)))


def _calibration(predictions: Predictions, weights: npt.NDArray[Any]) -> FigureArray:
    answered = predictions.predicted != UNREADABLE
    confidence, right = confidences(predictions)
    bins = np.eye(BINS)[np.minimum((confidence * BINS).astype(int), BINS - 1)]
    used = weights[:, answered]
    gaps = np.abs((used * (confidence - right)) @ bins).sum(axis=1)
    return _ratio(gaps, used.sum(axis=1))


def _brier(predictions: Predictions, weights: npt.NDArray[Any]) -> FigureArray:
    known = (predictions.truth != ANY_TUMOUR) & (predictions.predicted != UNREADABLE)
    wanted = np.eye(len(CLASS_NAMES))[predictions.truth[known]]
    loss = ((predictions.probabilities[known] - wanted) ** 2).sum(axis=1)
    return _ratio(weights[:, known] @ loss, weights[:, known].sum(axis=1))


def questions(predictions: Predictions) -> list[tuple[str, BoolArray, BoolArray, FigureArray]]:
    """Name, which answers count, which truths are positive, score: tumour against none, then each class."""
    truth, answered = predictions.truth, predictions.predicted != UNREADABLE
    probabilities = np.nan_to_num(predictions.probabilities.astype(np.float64))
    asked = [("tumour", answered, truth != NO_TUMOUR, 1 - probabilities[:, NO_TUMOUR])]
    known = answered & (truth != ANY_TUMOUR)
    for index, name in enumerate(CLASS_NAMES):
        asked.append((name, known, truth == index, probabilities[:, index]))
    return asked


def _by_score(
    score: FigureArray, positive: BoolArray, weights: npt.NDArray[Any]
) -> tuple[FigureArray, FigureArray] | None:
    """Weight of positives and of negatives at each different score, from the lowest: two [draws, scores]."""
    if not len(score):
        return None
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    ordered, sign = weights[:, order], positive[order]
    return np.add.reduceat(ordered * sign, starts, axis=1), np.add.reduceat(ordered * ~sign, starts, axis=1)


def weighted_auc(score: FigureArray, positive: BoolArray, weights: npt.NDArray[Any]) -> FigureArray:
    """Area under the ROC curve for every row of weights; ties count half, NaN unless both kinds occur."""
    parts = _by_score(score, positive, weights)
    if parts is None:
        return np.full(len(weights), np.nan)
    hits, false = parts
    below = np.cumsum(false, axis=1) - false / 2
    return _ratio((hits * below).sum(axis=1), hits.sum(axis=1) * false.sum(axis=1))


def weighted_precision(score: FigureArray, positive: BoolArray, weights: npt.NDArray[Any]) -> FigureArray:
    """Average precision (area under precision-recall, by steps) of each row of weights; NaN unless both kinds occur."""
    parts = _by_score(score, positive, weights)
    if parts is None:
        return np.full(len(weights), np.nan)
    hits, false = (part[:, ::-1] for part in parts)
    found = np.cumsum(hits, axis=1)
    precision = np.nan_to_num(_ratio(found, found + np.cumsum(false, axis=1)))
    return _ratio((hits * precision).sum(axis=1), hits.sum(axis=1) * (false.sum(axis=1) > 0))
