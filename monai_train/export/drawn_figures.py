"""docs/figures.json of a bundle: what the page of a model draws. docs/bundle.md describes its format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_train.evaluation.evaluate import Measurement
from monai_train.evaluation.metrics import FigureArray, Predictions, level_figures, occurring_labels, reliability
from monai_train.evaluation.plots import binary_curves, cumulative_counts, risk_coverage

_POINTS = 60  # of a curve; more are not visible
_SHOWN = ("n", "patients", "accuracy", "balanced_accuracy", "balanced_accuracy_ci", "ece", "tumour_auc")


def drawn_figures(measured: Mapping[str, Measurement], titles: Mapping[str, str]) -> dict[str, Any]:
    """The content of docs/figures.json; `titles` holds the heading of each part."""
    parts = [
        {"title": titles[name], "slices": _level(part.slices), "patients": _level(part.patients)}
        for name, part in measured.items()
        if not name.endswith("-fp32")  # only the engine that serves
    ]
    return {"format": 1, "parts": parts}


def _level(predictions: Predictions) -> dict[str, Any]:
    found = level_figures(predictions)
    confusion = np.array(found["confusion_matrix"])
    truths, answers = occurring_labels(confusion)
    return {
        **{name: found[name] for name in _SHOWN},
        "truths": [predictions.classes.label_names[index] for index in truths],
        "answers": [(*predictions.classes.names, "unreadable")[index] for index in answers],
        "confusion_matrix": confusion[np.ix_(truths, answers)].tolist(),
        "reliability": _reliability(predictions),
        "roc": _roc(predictions),
        "risk_coverage": _thinned(*risk_coverage(predictions)),
    }


def _reliability(predictions: Predictions) -> list[list[float]]:
    """[stated probability, share right, n] of every bin with answers."""
    return [
        [_short(stated), _short(right), int(n)] for stated, right, n in zip(*reliability(predictions), strict=True) if n
    ]


def _roc(predictions: Predictions) -> list[list[float]]:
    """[1 - specificity, sensitivity] of tumour against none; [] unless both occur."""
    for name, truth, score, _ in binary_curves(predictions):
        if name == "tumour":
            hits, false = cumulative_counts(truth, score)
            return _thinned(false / false[-1], hits / hits[-1])
    return []


def _thinned(x: FigureArray, y: FigureArray) -> list[list[float]]:
    chosen = np.unique(np.linspace(0, max(0, len(x) - 1), min(_POINTS, len(x))).astype(int))
    return [[_short(x[index]), _short(y[index])] for index in chosen]


def _short(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)
