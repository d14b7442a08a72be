"""The curves behind the plots against scikit-learn, and that every plot is drawn whatever occurs in the data."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as reference

from monai_train.evaluation import plots
from monai_train.evaluation.intervals import Estimate, estimates
from monai_train.evaluation.metrics import Predictions
from tests.testbed.converted import CLASSES
from tests.unit.monai_train.evaluation.test_intervals import made


def size_of(png: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(png))
    assert np.ptp(np.asarray(image.convert("L"))) > 100  # something is drawn
    return image.size


def test_risk_coverage_is_the_error_of_the_most_sure() -> None:
    answers = made(decimals=6)
    coverage, risk = plots.risk_coverage(answers)
    confidence, right = answers.probabilities.max(axis=1), answers.predicted == answers.truth
    order = np.argsort(-confidence)
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(1 - right.mean())
    assert risk[59] == pytest.approx(1 - right[order][:60].mean())


def test_answers_that_are_equally_sure_are_withheld_together() -> None:
    probabilities = np.array([[0.7, 0.3, 0, 0]] * 4, np.float32)
    answers = Predictions(CLASSES, np.array([0, 1, 0, 1]), probabilities, np.array(list("abcd")), np.ones(4, bool))
    coverage, risk = plots.risk_coverage(answers)
    assert (coverage.tolist(), risk.tolist()) == ([1.0], [0.5])


def test_curves_are_scikit_learns() -> None:
    answers = made()
    for name, truth, score, _ in plots.binary_curves(answers):
        hits, false = plots.cumulative_counts(truth, score)
        expected_false, expected_hits, _ = reference.roc_curve(truth, score, drop_intermediate=False)
        assert hits / hits[-1] == pytest.approx(expected_hits), name
        assert false / false[-1] == pytest.approx(expected_false), name


@pytest.mark.parametrize("truths", ["four classes", "tumour or none", "one class"])
def test_every_plot_is_drawn(truths: str) -> None:
    answers = made()
    if truths == "tumour or none":
        answers.truth[answers.truth < 3] = CLASSES.any_tumour
    if truths == "one class":
        answers.truth[:] = 2
    answers.assessed[::5] = False
    answers.probabilities[::31] = np.nan
    found = estimates(answers)
    drawn = [
        plots.confusion_chart(answers),
        plots.reliability_chart(answers, found["ece"]),
        plots.risk_coverage_chart(answers),
    ]
    assert bool(plots.binary_curves(answers)) == (truths != "one class")
    if plots.binary_curves(answers):
        drawn += [plots.roc_chart(answers, found), plots.precision_recall_chart(answers, found)]
    for png in drawn:
        width, height = size_of(png)
        assert 500 < width < 700
        assert height > 200


def test_plots_of_training_limits_and_comparison_are_drawn() -> None:
    log = [
        {"epoch": "1", "loss": "1.2", "validation_loss": "1.1", "validation_balanced_accuracy": "0.5"},
        {"epoch": "2", "loss": "0.7", "validation_loss": "0.8", "validation_balanced_accuracy": "0.7"},
    ]
    size_of(plots.learning_curves(log))
    points = np.random.default_rng(0).uniform(1, 9, (30, 2))
    size_of(plots.distribution_chart(points, points * 3, (5.0, 5.0), ("in", "out")))
    value, nothing = Estimate(0.9, 0.85, 0.95, 100), Estimate(None, None, None, 100)
    size_of(plots.comparison_chart(["a", "b"], [value, value], [nothing, value]))


def touching(figure: Figure) -> list[tuple[str, str]]:
    """Labels of ticks of an axis that overlap; turned labels are left out."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = []
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        labels = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_visible()]
        level = [text for text in labels if text.get_text() and not text.get_rotation()]
        boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in level]
        found += [(a[0], b[0]) for a, b in combinations(boxes, 2) if a[1].overlaps(b[1])]
    return found


def test_no_labels_of_ticks_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_png", lambda figure: drawn.append(figure) or b"")
    for highest in (5.2, 9.0, 120.0, 5e3, 1e7):
        points = np.geomspace(5, highest, 60).reshape(30, 2)
        plots.distribution_chart(points / 1e3, points, (highest, highest), ("in", "out"))
    for epochs in (1, 2, 7, 40, 300):
        columns = ("loss", "validation_loss", "validation_balanced_accuracy")
        plots.learning_curves(
            [{"epoch": str(n), **dict.fromkeys(columns, f"{1 / n:.4f}")} for n in range(1, epochs + 1)]
        )
    tight = Estimate(0.97123, 0.97120, 0.97126, 12000)
    plots.comparison_chart(["a", "b"], [tight, tight], [Estimate(1e-5, -3e-5, 4e-5, 12000)] * 2)
    answers = made()
    found = estimates(answers)
    plots.confusion_chart(answers)
    plots.roc_chart(answers, found)
    plots.reliability_chart(answers, found["ece"])
    assert [touching(figure) for figure in drawn] == [[]] * 14
    assert all(tick == round(tick) for tick in drawn[5].axes[1].get_xticks())  # epochs are whole
