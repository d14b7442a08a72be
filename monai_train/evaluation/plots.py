"""The charts of a report, each as the bytes of a PNG. Pure functions of arrays; every chart shows its n."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from monai_train.data.explore_pictures import COLOURS
from monai_train.evaluation.intervals import Estimate, binary_questions
from monai_train.evaluation.metrics import (
    BINS,
    FigureArray,
    IntArray,
    Predictions,
    confidences,
    confusion_matrix,
    occurring_labels,
    reliability,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"tumour": "tumour or none", "notumor": "no tumour", "tumor": "tumour, kind unknown"}
_TWO_DECADES = 100  # a logarithmic axis that is no longer has ticks at 1, 2 and 5, else at powers of ten
_DASHES = ("-", "--", "-.", ":", (0, (1, 1)))


def class_title(name: str) -> str:
    """The title of a class for a reader."""
    return TITLES.get(name, name)


def confusion_chart(predictions: Predictions) -> bytes:
    """The confusion matrix: counts, coloured by their share of the row."""
    confusion = confusion_matrix(predictions.truth, predictions.predicted, predictions.classes)
    truths, answers = occurring_labels(confusion)
    shown = confusion[np.ix_(truths, answers)]
    shares = shown / shown.sum(axis=1, keepdims=True)
    figure, axes = _figure(5.2, 1.6 + 0.75 * len(truths))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(shown):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{count}\n{100 * shares[row, column]:.0f} %"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    answer_names = (*predictions.classes.names, "not readable")
    axes.set_xticks(range(len(answers)), [class_title(answer_names[i]) for i in answers], rotation=20, ha="right")
    truth_names = predictions.classes.label_names
    labels = [f"{class_title(truth_names[i])} (n={confusion[i].sum()})" for i in truths]
    axes.set_yticks(range(len(truths)), labels)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return _png(figure)


def roc_chart(predictions: Predictions, figures: Mapping[str, Estimate]) -> bytes:
    """The ROC curves of tumour against none and of each class against the rest that `binary_curves` has."""
    figure, axes = _figure(5.2, 5.2)
    axes.plot([0, 1], [0, 1], color="#999999", lw=1, ls=":")
    for name, truth, score, style in binary_curves(predictions):
        hits, false = cumulative_counts(truth, score)
        axes.plot(false / false[-1], hits / hits[-1], label=_legend(name, figures[f"auc.{name}"]), **style)
    axes.set_xlabel("false positive rate (1 - specificity)")
    axes.set_ylabel("true positive rate (sensitivity)")
    _square(axes)
    axes.legend(loc="lower right", frameon=False, fontsize=8, title="area (95 % interval), n", title_fontsize=8)
    return _png(figure)


def precision_recall_chart(predictions: Predictions, figures: Mapping[str, Estimate]) -> bytes:
    """The precision-recall curves of tumour against none and of each class that `binary_curves` has."""
    figure, axes = _figure(5.2, 5.2)
    for name, truth, score, style in binary_curves(predictions):
        hits, false = cumulative_counts(truth, score)
        precision = hits[1:] / (hits[1:] + false[1:])
        label = _legend(name, figures[f"average_precision.{name}"])
        axes.step(np.r_[0, hits[1:] / hits[-1]], np.r_[precision[0], precision], where="pre", label=label, **style)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _square(axes)
    axes.legend(
        loc="lower left", frameon=False, fontsize=8, title="average precision (95 % interval), n", title_fontsize=8
    )
    return _png(figure)


def reliability_chart(predictions: Predictions, error: Estimate) -> bytes:
    """The share of right answers by their probability; below, the number of answers."""
    stated, share, n = reliability(predictions)
    figure, (axes, below) = _figure_pair(5.2, 5.2)
    axes.plot([0, 1], [0, 1], color="#999999", lw=1, ls=":", label="perfect")
    axes.vlines(stated, np.minimum(stated, share), np.maximum(stated, share), color=COLOURS[1], lw=2, label="gap")
    axes.plot(stated, share, "o", color=COLOURS[0], ms=5, label="share right")
    axes.set_ylabel("share of right answers")
    axes.set_ylim(-0.03, 1.03)
    axes.set_title(f"calibration error {error.text()}, n={error.n}", fontsize=9)
    axes.legend(loc="upper left", frameon=False, fontsize=8)  # "best" takes a second on a busy machine
    below.bar((np.arange(BINS) + 0.5) / BINS, n, width=0.9 / BINS, color=COLOURS[0])
    below.set_ylabel("answers")
    below.set_xlabel("probability of the answer")
    below.set_xlim(-0.03, 1.03)
    return _png(figure)


def risk_coverage(predictions: Predictions) -> tuple[FigureArray, FigureArray]:
    """Coverage [m] and the share of wrong answers among the m most confident, [m], of readable pictures.

    Answers of equal confidence count together: the order within a tie has no meaning.
    """
    confidence, right = confidences(predictions)
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.diff(confidence[order], append=-np.inf))
    wrong = np.cumsum(~right[order])[ends]
    return (ends + 1) / max(1, len(predictions.truth)), wrong / (ends + 1)


def risk_coverage_chart(predictions: Predictions) -> bytes:
    """The error among the remaining answers when the least sure are withheld; the abstention rule as a point."""
    coverage, risk = risk_coverage(predictions)
    figure, axes = _figure(5.2, 4.2)
    axes.plot(100 * coverage, 100 * risk, color=COLOURS[0], lw=2, label="withheld by probability")
    assessed = predictions.assessed
    if not assessed.all() and assessed.any():
        _, right = confidences(predictions.select(assessed))
        point = 100 * assessed.mean(), 100 * (1 - right.mean())
        axes.plot(*point, "o", color=COLOURS[5], label="the model's own “not assessed”")
    axes.set_xlabel(f"% answered (n={len(predictions.truth)})")
    axes.set_ylabel("% wrong of those answered")
    axes.set_xlim(0, 102)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", frameon=False, fontsize=8)  # "best" takes a second on a busy machine
    return _png(figure)


def learning_curves(log: Sequence[Mapping[str, str]]) -> bytes:
    """Training loss, validation loss and validation balanced accuracy over the epochs of a run's log.csv."""
    from matplotlib.ticker import MaxNLocator

    figure, (axes, below) = _figure_pair(5.2, 5.2, (1, 1))
    epochs = [int(line["epoch"]) for line in log]
    marker = "o" if len(epochs) == 1 else ""  # a line needs two points
    losses = (("loss", "training (augmented)", "-", 0), ("validation_loss", "validation", "--", 5))
    for column, label, style, colour in losses:
        values = [float(line[column]) for line in log]
        axes.plot(epochs, values, style, marker=marker, color=COLOURS[colour], lw=2, label=label)
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", frameon=False, fontsize=8)  # "best" takes a second on a busy machine
    figures = [100 * float(line["validation_balanced_accuracy"]) for line in log]
    best = int(np.argmax(figures))
    below.plot(epochs, figures, "--", color=COLOURS[5], lw=2)
    below.plot(epochs[best], figures[best], "o", color=COLOURS[5])
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    below.set_ylabel("validation balanced\naccuracy, %")
    below.set_xlabel(f"epoch (best: {figures[best]:.1f} % at {epochs[best]})")
    return _png(figure)


def distribution_chart(
    inside: npt.NDArray[Any], outside: npt.NDArray[Any], limits: tuple[float, float], names: tuple[str, str]
) -> bytes:
    """Distance and residual, each [n, 2], of test pictures and of pictures to be declined; the limits as lines."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, axes = _figure(5.2, 4.6)
    for points, colour, marker, name in ((inside, COLOURS[0], ".", names[0]), (outside, COLOURS[5], "x", names[1])):
        axes.plot(
            points[:, 0], points[:, 1], marker, color=colour, ms=4, ls="", alpha=0.6, label=f"{name} (n={len(points)})"
        )
    axes.axvline(limits[0], color="#777777", lw=1, ls="--")
    axes.axhline(limits[1], color="#777777", lw=1, ls="--", label="limit")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _TWO_DECADES * low else (1,), numticks=8))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("distance within the features' space")
    axes.set_ylabel("residual outside it")
    axes.legend(loc="upper left", frameon=False, fontsize=8)  # "best" takes a second on a busy machine
    return _png(figure)


def comparison_chart(names: Sequence[str], values: Sequence[Estimate], differences: Sequence[Estimate]) -> bytes:
    """A figure of each model with its interval; beside it, its paired difference from the first model."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 1.3 + 0.45 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, estimates in ((left, values), (right, differences)):
        for row, estimate in enumerate(estimates):
            if estimate.low is not None and estimate.high is not None:
                axes.hlines(row, 100 * estimate.low, 100 * estimate.high, color=COLOURS[0], lw=2)
            if estimate.value is not None:
                axes.plot(100 * estimate.value, row, "o", color=COLOURS[0])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", lw=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel(f"balanced accuracy, % (n={values[0].n})")
    right.axvline(0, color="#777777", lw=1, ls="--")
    right.set_xlabel("paired difference from the first, points")
    return _png(figure)


def binary_curves(predictions: Predictions) -> list[tuple[str, npt.NDArray[np.bool_], FigureArray, dict[str, Any]]]:
    """The questions of `binary_questions` for which both truths occur, each with a line style."""
    curves = []
    for index, (name, chosen, positive, score) in enumerate(binary_questions(predictions)):
        truth = positive[chosen]
        if truth.any() and not truth.all():
            colour = COLOURS[7 if index == 0 else (index - 1) % 7]
            style = {"color": colour, "ls": _DASHES[index % len(_DASHES)], "lw": 2.4 if index == 0 else 1.6}
            curves.append((name, truth, score[chosen], style))
    return curves


def cumulative_counts(truth: npt.NDArray[np.bool_], score: FigureArray) -> tuple[IntArray, IntArray]:
    """Positives and negatives at or above each distinct score, from the highest; the first point is 0, 0."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))
    hits = np.cumsum(truth[order])[ends]
    return np.r_[0, hits], np.r_[0, ends + 1 - hits]


def _legend(name: str, estimate: Estimate) -> str:
    return f"{class_title(name)}: {estimate.text()}, n={estimate.n}"


def _square(axes: Axes) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _figure_pair(width: float, height: float, ratios: tuple[int, int] = (3, 1)) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    pair: Sequence[Axes] = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    for axes in pair:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, pair


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
