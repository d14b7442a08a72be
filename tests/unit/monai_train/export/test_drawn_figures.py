"""docs/figures.json: what training writes is what the page can draw, and says what the model card says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monai_train.evaluation.evaluate import Measurement
from monai_train.evaluation.metrics import Predictions, balanced_accuracy, confusion_matrix
from monai_train.export.drawn_figures import drawn_figures
from tests.testbed.converted import CLASSES
from worker.inference.bundle import default_bundle
from worker.web.pages.model_figures import read_figures


def predictions(n: int, seed: int = 0) -> Predictions:
    """Answers that are right more often than not; some truths say only `tumor`, the first picture is unreadable."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES.any_tumour + 1, n)
    logits = generator.normal(size=(n, len(CLASSES)))
    logits[np.arange(n), np.minimum(truth, len(CLASSES) - 1)] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities[:1] = np.nan
    groups = np.array([f"p{number % 40}" for number in range(n)], np.str_)
    return Predictions(CLASSES, truth.astype(np.int64), probabilities, groups, np.ones(n, bool))


@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_what_is_measured_can_be_drawn(n: int) -> None:
    slices = predictions(n)
    measured = Measurement(slices, slices)
    found = read_figures(json.dumps(drawn_figures({"test": measured, "test-fp32": measured}, {"test": "Test part"})))
    assert found is not None
    [part] = found.parts
    level = part.slices
    assert (part.title, level.n) == ("Test part", n)
    assert sum(map(sum, level.confusion_matrix)) == n
    assert sum(answers for _, _, answers in level.reliability) == max(0, n - 1)
    if n == 300:
        assert level.balanced_accuracy == pytest.approx(
            float(balanced_accuracy(confusion_matrix(slices.truth, slices.predicted, CLASSES), CLASSES))
        )
        assert level.truths == [*CLASSES.names, "tumor"]
        assert level.answers == [*CLASSES.names, "unreadable"]
        assert (level.roc[0], level.roc[-1]) == ((0, 0), (1, 1))
        assert level.roc == sorted(level.roc)
        assert level.risk_coverage[-1][0] == pytest.approx(299 / 300, abs=1e-4)
        assert len(level.roc) <= 60


def test_the_shipped_figures_are_those_of_the_model_card() -> None:
    docs = default_bundle() / "docs"
    card = (docs / "README.md").read_text()
    found = read_figures((docs / "figures.json").read_text())
    assert found is not None
    assert len(found.parts) == 2
    for part in found.parts:
        assert part.title in " ".join(card.split())
        for level in (part.slices, part.patients):
            assert level.balanced_accuracy is not None
            assert level.balanced_accuracy_ci is not None
            low, high = level.balanced_accuracy_ci
            assert f"{100 * level.balanced_accuracy:.1f} % ({100 * low:.1f}-{100 * high:.1f})" in card
            assert sum(map(sum, level.confusion_matrix)) == level.n


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 2, "parts": []}',
        '{"format": 1, "parts": [{"title": "a"}]}',
        '{"format": 1, "parts": [], "more": 1}',
    ],
)
def test_what_is_in_no_known_form_is_not_drawn(content: str) -> None:
    assert read_figures(content) is None
    assert read_figures(None) is None
