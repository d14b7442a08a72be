"""Every figure of a report with its 95 % interval over 2,000 resamples of patients, and with its own n.

A resample gives every patient a weight (how often it was drawn), so each figure is a function of weights
[draws, n] → [draws]: weights of 1 give the figure itself, and the same draws for two models give a paired difference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_train.evaluation.binomial import exact_interval, is_degenerate, least_share
from monai_train.evaluation.metrics import (
    BINS,
    BOOTSTRAP_SAMPLES,
    BoolArray,
    FigureArray,
    Predictions,
    balanced_accuracy,
    confidences,
    confusion_matrix,
    ratio,
    recalls,
    sensitivity,
    specificity,
)

_CHUNK = 100
_NO_SHARES = ("mcc", "ece", "brier", "average_precision")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its 95 % interval and the number of answers it is computed from.

    `value` is None if these are too few. `low` and `high` are None as well if all resamples are equal and no exact
    interval is known.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def texts(self, in_percent: bool) -> tuple[str, str]:
        """Value and interval, such as `90.1 %` and `85.8-93.7`; `-` without a value, "" without an interval."""
        scale, digits, unit = (100, 1, " %") if in_percent else (1, 3, "")
        if self.value is None:
            return "-", ""
        value = f"{scale * self.value:.{digits}f}{unit}"
        if self.low is None or self.high is None:
            return value, ""
        return value, f"{scale * self.low:.{digits}f}-{scale * self.high:.{digits}f}"

    def text(self, in_percent: bool = False) -> str:
        """Both together, such as `90.1 % (85.8-93.7)`."""
        value, interval = self.texts(in_percent)
        return f"{value} ({interval})" if interval else value

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
    """Every figure for every row of `weights` [draws, n] → [draws] each, NaN where it is undefined.

    Named `accuracy`, `auc.tumour`, `recall.glioma`, ...: figures of all, of tumour against none, of a class.
    Abstention is disregarded.
    """
    weights, classes = weights.astype(np.float64), predictions.classes
    size = len(classes) + 1
    cell = np.eye(size * size)[predictions.truth * size + predictions.predicted]
    confusion = (weights @ cell).reshape(-1, size, size)
    total = confusion.sum(axis=(1, 2))
    shares = recalls(confusion, classes)
    figures: dict[str, FigureArray] = {
        "accuracy": ratio((np.nan_to_num(shares) * confusion.sum(axis=2)).sum(axis=1), total),
        "balanced_accuracy": balanced_accuracy(confusion, classes),
        "mcc": _matthews(confusion[:, : len(classes)]),
        "ece": _calibration(predictions, weights),
        "brier": _brier(predictions, weights),
        "sensitivity": sensitivity(confusion, classes),
        "specificity": specificity(confusion, classes),
    }
    for name, chosen, positive, score in binary_questions(predictions):
        figures[f"auc.{name}"] = weighted_auc(score[chosen], positive[chosen], weights[:, chosen])
        figures[f"average_precision.{name}"] = weighted_precision(score[chosen], positive[chosen], weights[:, chosen])
    kinds = confusion[:, : len(classes)]
    for index, name in enumerate(predictions.classes.names):
        right, called, support = kinds[:, index, index], kinds[:, :, index].sum(axis=1), kinds[:, index].sum(axis=1)
        others = kinds.sum(axis=(1, 2)) - support
        figures[f"precision.{name}"] = ratio(right, called)
        figures[f"recall.{name}"] = ratio(right, support)
        figures[f"specificity.{name}"] = ratio(others - called + right, others)
        figures[f"f1.{name}"] = ratio(2 * right, called + support)
    return figures


def counted_answers(predictions: Predictions) -> dict[str, BoolArray]:
    """Which answers [n] each figure of `weighted_figures` is computed from."""
    truth, predicted, classes = predictions.truth, predictions.predicted, predictions.classes
    known = truth != classes.any_tumour
    answered = predicted != predictions.unreadable
    everything = np.ones(len(truth), bool)
    masks = {
        "accuracy": everything,
        "balanced_accuracy": everything,
        "mcc": known,
        "ece": answered,
        "brier": known & answered,
        "sensitivity": truth != classes.no_tumour,
        "specificity": truth == classes.no_tumour,
    }
    for name, chosen, _, _ in binary_questions(predictions):
        masks[f"auc.{name}"] = masks[f"average_precision.{name}"] = chosen
    for index, name in enumerate(predictions.classes.names):
        masks[f"precision.{name}"] = known & (predicted == index)
        masks[f"recall.{name}"] = truth == index
        masks[f"specificity.{name}"] = known & (truth != index)
        masks[f"f1.{name}"] = known & ((truth == index) | (predicted == index))
    return masks


def figure_counts(predictions: Predictions) -> dict[str, int]:
    """The n of every figure of `weighted_figures`."""
    return {name: int(mask.sum()) for name, mask in counted_answers(predictions).items()}


def estimates(predictions: Predictions) -> dict[str, Estimate]:
    """Every figure with its patient bootstrap interval, or the exact interval where that is degenerate."""
    if not len(predictions.truth):
        return {}
    value = weighted_figures(predictions, np.ones((1, len(predictions.truth))))
    spread = resampled(predictions, patient_draws(predictions.groups))
    masks = counted_answers(predictions)
    resamples = {name: _estimate(value[name][0], spread[name], int(masks[name].sum())) for name in value}
    return {
        name: _replaced(estimate, _exact(name, estimate.value, predictions, masks[name]))
        for name, estimate in resamples.items()
    }


def _exact(name: str, value: float | None, predictions: Predictions, mask: BoolArray) -> tuple[float, float] | None:
    """The exact interval of a figure; None if it is not a function of shares whose interval is known."""
    kind, _, of = name.partition(".")
    if value is None or kind in _NO_SHARES:
        return None
    groups, truth = predictions.groups, predictions.truth
    if kind == "auc":
        # Disjoint pairs of a positive and a negative patient, as many as the fewer; each is rightly ordered or not.
        positive = next(positive for question, _, positive, _ in binary_questions(predictions) if question == of)
        return exact_interval([value], [min(_patients(groups[mask & side]) for side in (positive, ~positive))])
    if kind == "balanced_accuracy":
        shares = recalls(confusion_matrix(truth, predictions.predicted, predictions.classes), predictions.classes)
        present = np.flatnonzero(np.isfinite(shares))
        return exact_interval(shares[present].tolist(), [_patients(groups[truth == label]) for label in present])
    # F1 = 2 J / (1 + J), J the share right among those of or called the class
    share = value / (2 - value) if kind == "f1" else value
    interval = exact_interval([share], [_patients(groups[mask])])
    if kind == "f1" and interval is not None:
        return 2 * interval[0] / (1 + interval[0]), 2 * interval[1] / (1 + interval[1])
    return interval


def _patients(groups: npt.NDArray[np.str_]) -> int:
    return len(set(groups.tolist()))


def _replaced(estimate: Estimate, exact: tuple[float, float] | None) -> Estimate:
    """The estimate; if its interval is degenerate, with the exact interval, or with none if it has no width."""
    if estimate.low is None or estimate.high is None or not is_degenerate(estimate.low, estimate.high):
        return estimate
    if exact is None and estimate.low < estimate.high:
        return estimate
    low, high = exact or (None, None)
    return replace(estimate, low=low, high=high)


def resampled(predictions: Predictions, draws: npt.NDArray[np.int64]) -> dict[str, FigureArray]:
    """`weighted_figures` of many draws [draws, n], in chunks."""
    chunks = [weighted_figures(predictions, draws[start : start + _CHUNK]) for start in range(0, len(draws), _CHUNK)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def paired_differences(ours: Predictions, theirs: Predictions) -> dict[str, Estimate]:
    """Ours minus theirs for every figure, both on the same resampled patients.

    Raises ValueError unless both are answers to the same pictures in the same order.
    """
    if not (np.array_equal(ours.truth, theirs.truth) and np.array_equal(ours.groups, theirs.groups)):
        raise ValueError("a paired difference needs the same pictures in the same order")
    draws, ones = patient_draws(ours.groups), np.ones((1, len(ours.truth)))
    values = weighted_figures(ours, ones), weighted_figures(theirs, ones)
    spreads = resampled(ours, draws), resampled(theirs, draws)
    masks = counted_answers(ours)
    found = {}
    for name, mask in masks.items():
        spread = spreads[0][name] - spreads[1][name]
        difference = _estimate(values[0][name][0] - values[1][name][0], spread, int(mask.sum()))
        found[name] = _with_width(difference, name, _patients(ours.groups[mask]))
    return found


def _with_width(difference: Estimate, name: str, patients: int) -> Estimate:
    """The difference; of a share, if all resamples are equal, with the width that as many patients leave open.

    When no patient of n is answered differently, up to 1 - 0.025^(1/n) of all patients may be. Without a width for
    another figure.
    """
    if difference.value is None or difference.low != difference.high:
        return difference
    if name.partition(".")[0] in _NO_SHARES or not patients:
        return replace(difference, low=None, high=None)
    width = 1 - least_share([patients])
    return replace(difference, low=difference.value - width, high=difference.value + width)


def share_estimate(hits: BoolArray, groups: npt.NDArray[np.str_]) -> Estimate:
    """The share of `hits` [n] with its patient bootstrap interval, or the exact interval where that is degenerate."""
    draws = patient_draws(groups).astype(np.float64)
    value = np.float64(hits.mean() if len(hits) else np.nan)
    estimate = _estimate(value, ratio(draws @ hits, draws.sum(axis=1)), len(hits))
    exact = None if estimate.value is None else exact_interval([estimate.value], [_patients(groups)])
    return _replaced(estimate, exact)


def _estimate(value: np.floating[Any], spread: FigureArray, n: int) -> Estimate:
    spread = spread[np.isfinite(spread)]
    if not np.isfinite(value) or not len(spread):
        return Estimate(None, None, None, n)
    low, high = np.percentile(spread, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high), n)


def _matthews(confusion: npt.NDArray[Any]) -> FigureArray:
    """Matthews' coefficient of tumours of known kind [draws, classes, classes + unreadable] (Gorodkin 2004)."""
    total, right = confusion.sum(axis=(1, 2)), np.trace(confusion, axis1=1, axis2=2)
    truths, calls = confusion.sum(axis=2), confusion.sum(axis=1)
    both = (truths * calls[:, : truths.shape[1]]).sum(axis=1)
    spread = (total**2 - (truths**2).sum(axis=1)) * (total**2 - (calls**2).sum(axis=1))
    return ratio(right * total - both, np.sqrt(np.maximum(spread, 0)))


def _calibration(predictions: Predictions, weights: npt.NDArray[Any]) -> FigureArray:
    answered = predictions.predicted != predictions.unreadable
    confidence, right = confidences(predictions)
    bins = np.eye(BINS)[np.minimum((confidence * BINS).astype(int), BINS - 1)]
    used = weights[:, answered]
    gaps = np.abs((used * (confidence - right)) @ bins).sum(axis=1)
    return ratio(gaps, used.sum(axis=1))


def _brier(predictions: Predictions, weights: npt.NDArray[Any]) -> FigureArray:
    known = (predictions.truth != predictions.classes.any_tumour) & (predictions.predicted != predictions.unreadable)
    expected = np.eye(len(predictions.classes))[predictions.truth[known]]
    loss = ((predictions.probabilities[known] - expected) ** 2).sum(axis=1)
    return ratio(weights[:, known] @ loss, weights[:, known].sum(axis=1))


def binary_questions(predictions: Predictions) -> list[tuple[str, BoolArray, BoolArray, FigureArray]]:
    """Tumour against none, then each class against the rest: name, answers that count, positive truths, score."""
    truth, answered = predictions.truth, predictions.predicted != predictions.unreadable
    no_tumour = predictions.classes.no_tumour
    probabilities = np.nan_to_num(predictions.probabilities.astype(np.float64))
    questions = [("tumour", answered, truth != no_tumour, 1 - probabilities[:, no_tumour])]
    known = answered & (truth != predictions.classes.any_tumour)
    for index, name in enumerate(predictions.classes.names):
        questions.append((name, known, truth == index, probabilities[:, index]))
    return questions


def _by_score(
    score: FigureArray, positive: BoolArray, weights: npt.NDArray[Any]
) -> tuple[FigureArray, FigureArray] | None:
    """The weight of positives and of negatives at each distinct score, from the lowest: two [draws, scores]."""
    if not len(score):
        return None
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    ordered, sign = weights[:, order], positive[order]
    return np.add.reduceat(ordered * sign, starts, axis=1), np.add.reduceat(ordered * ~sign, starts, axis=1)


def weighted_auc(score: FigureArray, positive: BoolArray, weights: npt.NDArray[Any]) -> FigureArray:
    """Area under the ROC curve for every row of weights; ties count half, NaN unless both truths occur."""
    by_score = _by_score(score, positive, weights)
    if by_score is None:
        return np.full(len(weights), np.nan)
    hits, false = by_score
    below = np.cumsum(false, axis=1) - false / 2
    return ratio((hits * below).sum(axis=1), hits.sum(axis=1) * false.sum(axis=1))


def weighted_precision(score: FigureArray, positive: BoolArray, weights: npt.NDArray[Any]) -> FigureArray:
    """Average precision (area under precision-recall, by steps) of every row of weights; NaN unless both occur."""
    by_score = _by_score(score, positive, weights)
    if by_score is None:
        return np.full(len(weights), np.nan)
    hits, false = (weight[:, ::-1] for weight in by_score)
    retrieved = np.cumsum(hits, axis=1)
    precision = np.nan_to_num(ratio(retrieved, retrieved + np.cumsum(false, axis=1)))
    return ratio((hits * precision).sum(axis=1), hits.sum(axis=1) * (false.sum(axis=1) > 0))
