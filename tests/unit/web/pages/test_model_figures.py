from __future__ import annotations

import json
from typing import Any

import pytest

from worker.inference.bundle import default_bundle
from worker.web.pages.model_figures import Dot, FigureLevel, read_figures

LEVEL: dict[str, Any] = {
    "n": 10,
    "patients": 4,
    "accuracy": 0.9,
    "balanced_accuracy": 0.8,
    "balanced_accuracy_ci": [0.7, 0.9],
    "ece": 0.05,
    "tumour_auc": 0.95,
    "truths": ["glioma", "notumor"],
    "answers": ["glioma", "notumor"],
    "confusion_matrix": [[4, 1], [0, 5]],
    "reliability": [[0.75, 0.5, 2], [0.95, 1.0, 8]],
    "roc": [[0, 0], [0.2, 1], [1, 1]],
    "risk_coverage": [[0.5, 0.0], [1.0, 0.13]],
}


def test_curves_are_polylines_in_a_square_of_100() -> None:
    level = FigureLevel.model_validate(LEVEL)
    assert level.roc_line == "0.00,100.00 20.00,0.00 100.00,0.00"
    assert level.highest_risk == pytest.approx(0.2)
    assert level.risk_line == "50.00,100.00 100.00,35.00"


def test_a_dot_grows_with_the_number_of_answers() -> None:
    dots = FigureLevel.model_validate(LEVEL).reliability_dots
    assert dots == [Dot(75.0, 50.0, 8.0), Dot(95.0, 0.0, 13.0)]


@pytest.mark.parametrize(
    "change",
    [
        {"confusion_matrix": [[4, 1]]},
        {"confusion_matrix": [[4], [5]]},
        {"accuracy": 1.5},
        {"ece": float("nan")},
        {"unknown": 1},
    ],
)
def test_invalid_figures_are_logged_and_not_shown(change: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    level = LEVEL | change
    content = json.dumps({"format": 1, "parts": [{"title": "Test", "slices": level, "patients": LEVEL}]})
    assert read_figures(content) is None
    assert "docs/figures.json" in capsys.readouterr().out


def test_a_bundle_may_have_no_figures_and_the_shipped_one_has() -> None:
    assert read_figures(None) is None
    figures = read_figures((default_bundle() / "docs" / "figures.json").read_text())
    assert figures is not None
    assert all(section.slices.n >= section.patients.n > 0 for section in figures.parts)
