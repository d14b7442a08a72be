"""Figures of a classification with truths that may only say `tumor`, each with n and a patient bootstrap interval.

Pure functions of arrays. Truths are indices of classes, or `any_tumour` for a tumour of unknown kind, for which any
class but "no tumour" is right. Predictions are indices of classes, or their number for no answer at all, which is
always wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_train.data.labels import ANY_TUMOUR, Classes
from monai_train.evaluation.binomial import counted_interval, exact_interval, is_degenerate
from worker.pixels.arrays import FloatArray

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FigureArray = npt.NDArray[np.float64]
BOOTSTRAP_SAMPLES = 2000
BINS = 15


@dataclass(frozen=True, eq=False, slots=True)
class Predictions:
    """`truth` [n], `probabilities` [n, classes] (NaN where unreadable), `groups` [n] patients, `assessed` [n].

    `lesion_first`: whether the answer is a lesion or none comes before its kind, as in bundles of format 2.
    """

    classes: Classes

    truth: IntArray
    probabilities: FloatArray
    groups: npt.NDArray[np.str_]
    assessed: BoolArray
    lesion_first: bool = False

    @property
    def unreadable(self) -> int:
        """What `predicted` is without an answer."""
        return len(self.classes)

    @property
    def predicted(self) -> IntArray:
        """The most probable class [n], or `unreadable`; regardless of abstention.

        With `lesion_first`, the most probable kind where a lesion is as probable as none.
        """
        readable = np.isfinite(self.probabilities).all(axis=1)
        filled = np.nan_to_num(self.probabilities)
        best = np.argmax(filled, axis=1)
        if self.lesion_first:
            kinds = np.array(self.classes.lesions)[np.argmax(filled[:, self.classes.lesions], axis=1)]
            best = np.where(filled[:, self.classes.no_tumour] <= 0.5, kinds, self.classes.no_tumour)
        return np.where(readable, best, self.unreadable).astype(np.int64)

    def select(self, chosen: BoolArray | IntArray) -> Predictions:
        """The answers that a mask [n] or positions choose."""
        return Predictions(
            self.classes,
            self.truth[chosen],
            self.probabilities[chosen],
            self.groups[chosen],
            self.assessed[chosen],
            self.lesion_first,
        )


Figure = Callable[[npt.NDArray[Any], Classes], FigureArray]  # of confusion matrices


def confusion_matrix(truth: IntArray, predicted: IntArray, classes: Classes) -> IntArray:
    """[classes + tumor, classes + unreadable] counts."""
    size = len(classes) + 1
    return np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size).astype(np.int64)


def ratio(part: npt.NDArray[Any], total: npt.NDArray[Any]) -> FigureArray:
    """The quotient, NaN where the total is 0."""
    out = np.full(np.shape(total), np.nan)
    return np.asarray(np.divide(part, total, out=out, where=np.asarray(total) > 0))


def recalls(confusion: npt.NDArray[Any], classes: Classes) -> FigureArray:
    """The share of right answers to every truth, [..., classes + tumor]; NaN for a truth that does not occur."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    right[..., classes.any_tumour] = confusion[..., classes.any_tumour, classes.lesions].sum(axis=-1)
    total = confusion.sum(axis=-1)
    return ratio(right, total)


def balanced_accuracy(confusion: npt.NDArray[Any], classes: Classes) -> FigureArray:
    """The mean recall over the truths that occur, [...]."""
    shares = recalls(confusion, classes)
    present = np.isfinite(shares)
    return np.asarray(np.nan_to_num(shares).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1))


def sensitivity(confusion: npt.NDArray[Any], classes: Classes) -> FigureArray:
    """The share of tumours of any kind that are called a tumour of any kind, [...]; NaN without tumours."""
    tumours = np.delete(confusion, classes.no_tumour, axis=-2).sum(axis=-2)
    return ratio(tumours[..., classes.lesions].sum(axis=-1), tumours.sum(axis=-1))


def specificity(confusion: npt.NDArray[Any], classes: Classes) -> FigureArray:
    """The share of pictures without a tumour that are called "no tumour", [...]; NaN without such pictures."""
    row = confusion[..., classes.no_tumour, :]
    return ratio(row[..., classes.no_tumour], row.sum(axis=-1))


def bootstrap_interval(
    truth: IntArray,
    predicted: IntArray,
    groups: npt.NDArray[np.str_],
    figure: Figure,
    classes: Classes,
    seed: int = 0,
) -> list[float] | None:
    """95 % interval of a share of the confusion matrix over 2,000 resamples of patients.

    Exact where that is degenerate and the exact interval is known. None without patients.
    """
    if not len(truth):
        return None
    names, index = np.unique(groups, return_inverse=True)
    size = len(classes) + 1
    by_patient = np.zeros((len(names), size, size))
    np.add.at(by_patient, (index, truth, predicted), 1)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), BOOTSTRAP_SAMPLES)
    figures = figure((drawn.astype(float) @ by_patient.reshape(len(names), -1)).reshape(-1, size, size), classes)
    figures = figures[np.isfinite(figures)]
    if not len(figures):
        return None
    low, high = np.percentile(figures, (2.5, 97.5))
    exact = exact_interval(*_shares(by_patient, figure, classes)) if is_degenerate(low, high) else None
    if exact is not None:
        return list(exact)
    return [float(low), float(high)] if low < high else None


def share_interval(hits: BoolArray, groups: npt.NDArray[np.str_], seed: int = 0) -> list[float] | None:
    """95 % interval of the share of `hits` [n] over 2,000 resamples of patients; None without patients."""
    if not len(hits):
        return None
    names, index = np.unique(groups, return_inverse=True)
    right, total = np.bincount(index, hits.astype(float)), np.bincount(index)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), BOOTSTRAP_SAMPLES)
    low, high = np.percentile((drawn @ right) / (drawn @ total), (2.5, 97.5))
    return (
        list(counted_interval(float(hits.mean()), len(names)))
        if is_degenerate(low, high)
        else [float(low), float(high)]
    )


def accuracy(confusion: npt.NDArray[Any], classes: Classes) -> FigureArray:
    """The share of right answers, [...]; of a tumour of unknown kind any tumour is right."""
    counts = confusion.sum(axis=-1)
    right = np.nansum(recalls(confusion, classes) * counts, axis=-1)
    return ratio(right, counts.sum(axis=-1))


def _shares(by_patient: npt.NDArray[Any], figure: Figure, classes: Classes) -> tuple[list[float], list[int]]:
    """The shares whose mean a figure of confusion matrices is, and the number of patients of each."""
    total = by_patient.sum(axis=0)
    if figure is not balanced_accuracy:
        return [float(figure(total, classes))], [int(np.isfinite(figure(by_patient, classes)).sum())]
    patients = (by_patient.sum(axis=2) > 0).sum(axis=0)
    present = patients > 0
    return recalls(total, classes)[present].tolist(), patients[present].tolist()


def confidences(predictions: Predictions) -> tuple[FigureArray, BoolArray]:
    """The probability of the answer and whether it is right, of readable pictures.

    Where the truth is `tumor`, of the answer's side: any tumour, or none.
    """
    readable = predictions.predicted != predictions.unreadable
    no_tumour, any_tumour = predictions.classes.no_tumour, predictions.classes.any_tumour
    p, truth = predictions.probabilities[readable].astype(float), predictions.truth[readable]
    predicted = p.argmax(axis=1)
    called_tumour = predicted != no_tumour
    side = np.where(called_tumour, 1 - p[:, no_tumour], p[:, no_tumour])
    only_side = truth == any_tumour
    return np.where(only_side, side, p.max(axis=1)), np.where(only_side, called_tumour, predicted == truth)


def reliability(predictions: Predictions) -> tuple[FigureArray, FigureArray, IntArray]:
    """For 15 bins of the answer's probability: its mean, the share right, the number of answers; NaN in empty bins."""
    confidence, right = confidences(predictions)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    n = np.bincount(bins, minlength=BINS)
    stated, share = (np.bincount(bins, values, BINS) for values in (confidence, right.astype(float)))
    return ratio(stated, n), ratio(share, n), n


def occurring_labels(confusion: IntArray) -> tuple[list[int], list[int]]:
    """The truths of a confusion matrix that occur; the answers: every class, and "unreadable" if it occurs."""
    truths = [index for index, row in enumerate(confusion) if row.any()]
    return truths, [
        index for index in range(confusion.shape[1]) if index < len(confusion) - 1 or confusion[:, index].any()
    ]


def calibration_error(predictions: Predictions) -> float | None:
    """Expected calibration error of the answer's probability, 15 bins of equal width (Guo et al. 2017)."""
    stated, share, n = reliability(predictions)
    used = n > 0
    return float(np.average(np.abs(stated - share)[used], weights=n[used])) if used.any() else None


def tumour_auc(predictions: Predictions) -> float | None:
    """Area under the ROC curve of tumour against none; ties count half. None unless both occur."""
    readable, no_tumour = predictions.predicted != predictions.unreadable, predictions.classes.no_tumour
    score = 1 - predictions.probabilities[readable, no_tumour].astype(float)
    tumour = predictions.truth[readable] != no_tumour
    if tumour.all() or not tumour.any():
        return None
    _, index, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    positives = int(tumour.sum())
    area = ranks[tumour].sum() - positives * (positives + 1) / 2
    return float(area / (positives * (len(score) - positives)))


def _per_class(predictions: Predictions, confusion: IntArray) -> dict[str, dict[str, Any]]:
    """Precision excludes tumours of unknown kind; None for a figure whose denominator is 0."""
    classes = predictions.classes
    shares = recalls(confusion, classes)
    kinds_known = confusion[: len(classes)]
    table: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(classes.names):
        right, called = int(kinds_known[index, index]), int(kinds_known[:, index].sum())
        support, others = int(kinds_known[index].sum()), int(kinds_known.sum() - kinds_known[index].sum())
        table[name] = {
            "precision": right / called if called else None,
            "recall": _plain(shares[index]),
            "recall_ci": _recall_interval(predictions, index),
            "specificity": (others - called + right) / others if others else None,
            "f1": 2 * right / (called + support) if called + support else None,
            "support": support,
        }
    unknown = confusion[classes.any_tumour]
    if unknown.any():
        interval = _recall_interval(predictions, classes.any_tumour)
        recall = _plain(shares[classes.any_tumour])
        table[ANY_TUMOUR] = {"recall": recall, "recall_ci": interval, "support": int(unknown.sum())}
    return table


def _recall_interval(predictions: Predictions, label: int) -> list[float] | None:
    own = predictions.truth == label
    return share_interval(right_answers(predictions)[own], predictions.groups[own])


def right_answers(predictions: Predictions) -> BoolArray:
    """Which answers [n] are right; to a tumour of unknown kind, any tumour."""
    truth, predicted, classes = predictions.truth, predictions.predicted, predictions.classes
    any_tumour = (truth == classes.any_tumour) & np.isin(predicted, classes.lesions)
    return np.asarray((truth < len(classes)) & (predicted == truth) | any_tumour)


def _plain(value: float | np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None


def level_figures(predictions: Predictions) -> dict[str, Any]:
    """All figures of a level, slices or patients, regardless of abstention; None for what is undefined."""
    predicted, classes = predictions.predicted, predictions.classes
    confusion = confusion_matrix(predictions.truth, predicted, classes)
    n = len(predicted)
    known = (predictions.truth != classes.any_tumour) & (predicted != predictions.unreadable)
    expected = np.eye(len(classes))[predictions.truth[known]]
    return {
        "n": n,
        "patients": len(set(predictions.groups.tolist())),
        "accuracy": float(accuracy(confusion, classes)) if n else None,
        "accuracy_ci": share_interval(right_answers(predictions), predictions.groups),
        "balanced_accuracy": float(balanced_accuracy(confusion, classes)) if n else None,
        "balanced_accuracy_ci": bootstrap_interval(
            predictions.truth, predicted, predictions.groups, balanced_accuracy, classes
        ),
        "per_class": _per_class(predictions, confusion),
        "confusion_matrix": confusion[: len(classes) + bool(confusion[classes.any_tumour].any()), :].tolist(),
        "ece": calibration_error(predictions),
        "brier": float(((predictions.probabilities[known] - expected) ** 2).sum(axis=1).mean())
        if known.any()
        else None,
        "tumour_auc": tumour_auc(predictions),
    }


def binary_figures(predictions: Predictions) -> dict[str, Any]:
    """Tumour against none: of all answers, and of those that are left when the model may abstain ("not assessed").

    `missed` is the share of tumours to which the answer is "no tumour"; `false_alarms` the share of the others to which
    it is a tumour.
    """
    truth, predicted, groups = predictions.truth, predictions.predicted, predictions.groups
    classes, assessed = predictions.classes, predictions.assessed
    tumour = truth != classes.no_tumour
    result: dict[str, Any] = {"n": len(truth), "n_tumour": int(tumour.sum()), "n_no_tumour": int((~tumour).sum())}
    figures_of = {"sensitivity": sensitivity, "specificity": specificity}
    for suffix, used in (("", np.ones(len(truth), bool)), ("_assessed", assessed)):
        confusion = confusion_matrix(truth[used], predicted[used], classes)
        for name, figure in figures_of.items():
            result[name + suffix] = _plain(float(figure(confusion, classes)))
            result[f"{name}{suffix}_ci"] = bootstrap_interval(
                truth[used], predicted[used], groups[used], figure, classes
            )
    called_none = predicted == classes.no_tumour
    for name, chosen, hits in (
        ("missed", tumour, assessed & called_none),
        ("false_alarms", ~tumour, assessed & ~called_none),
        ("not_assessed", np.ones(len(truth), bool), ~assessed),
    ):
        result[name] = _mean(hits[chosen])
        result[f"{name}_ci"] = share_interval(hits[chosen], groups[chosen])
    result["n_assessed"] = int(assessed.sum())
    return result


def _mean(values: BoolArray) -> float | None:
    return float(values.mean()) if len(values) else None


def patient_predictions(
    predictions: Predictions, decide: Callable[[FloatArray, BoolArray], tuple[FloatArray, bool]]
) -> Predictions:
    """An answer for each patient and truth. `decide` gets a patient's slices and which of them are in distribution."""
    keys: Sequence[tuple[str, int]] = list(zip(predictions.groups.tolist(), predictions.truth.tolist(), strict=True))
    members: dict[tuple[str, int], list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    decided = [decide(predictions.probabilities[index], predictions.assessed[index]) for index in members.values()]
    return Predictions(
        predictions.classes,
        np.array([truth for _, truth in members], np.int64),
        np.array([probabilities for probabilities, _ in decided], np.float32).reshape(-1, len(predictions.classes)),
        np.array([group for group, _ in members], np.str_),
        np.array([assessed for _, assessed in decided], bool),
    )
