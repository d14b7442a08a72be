"""Every figure against scikit-learn, the treatment of `tumor`, abstention and patients."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from monai_train.data.labels import ANY_TUMOUR, CLASS_NAMES
from monai_train.evaluation.metrics import (
    UNREADABLE,
    Predictions,
    balanced_accuracy,
    binary_figures,
    bootstrap_interval,
    calibration_error,
    level_figures,
    tumour_auc,
)


def made(n: int = 300, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 4, n)
    scores = generator.normal(size=(n, 4)) + 1.5 * np.eye(4)[truth]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    groups = np.array([f"G{i}" for i in generator.integers(0, 60, n)])
    return Predictions(truth, probabilities.astype(np.float32), groups, generator.random(n) < 0.8)


def test_figures_equal_scikit_learn() -> None:
    one = made()
    ours, predicted = level_figures(one), one.predicted
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(one.truth, predicted))
    assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(one.truth, predicted))
    expected = reference.confusion_matrix(one.truth, predicted)
    assert np.array_equal(np.array(ours["confusion_matrix"])[:, :4], expected)
    scores = reference.precision_recall_fscore_support(one.truth, predicted)
    for index, name in enumerate(CLASS_NAMES):
        row = ours["per_class"][name]
        values = [row["precision"], row["recall"], row["f1"], row["support"]]
        assert values == pytest.approx([column[index] for column in scores])
        others = one.truth != index
        assert row["specificity"] == pytest.approx(np.mean(predicted[others] != index))
    wanted = np.eye(4)[one.truth]
    assert ours["brier"] == pytest.approx(((one.probabilities - wanted) ** 2).sum(axis=1).mean(), abs=1e-6)


def test_auc_equals_scikit_learn_with_ties() -> None:
    one = made()
    rounded = Predictions(one.truth, one.probabilities.round(1), one.groups, one.assessed)
    for case in (one, rounded):
        expected = reference.roc_auc_score(case.truth != 3, 1 - case.probabilities[:, 3])
        assert tumour_auc(case) == pytest.approx(expected, abs=1e-6)


def test_any_tumour_counts_every_tumour_class_as_right() -> None:
    probabilities = np.array([[0.9, 0.1, 0, 0], [0, 0, 0.8, 0.2], [0, 0.1, 0, 0.9], [0, 0, 0, 1.0]], np.float32)
    truth = np.array([ANY_TUMOUR, ANY_TUMOUR, ANY_TUMOUR, 3])
    one = Predictions(truth, probabilities, np.array(list("abcd")), np.ones(4, bool))
    assert level_figures(one)["accuracy"] == pytest.approx(0.75)
    assert level_figures(one)["per_class"]["tumor"] == {"recall": pytest.approx(2 / 3), "support": 3}
    assert binary_figures(one)["sensitivity"] == pytest.approx(2 / 3)
    assert binary_figures(one)["specificity"] == 1


def test_unreadable_is_always_wrong() -> None:
    probabilities = np.array([[np.nan] * 4, [0, 0, 0, 1.0]], np.float32)
    one = Predictions(np.array([0, 3]), probabilities, np.array(["a", "b"]), np.array([False, True]))
    assert one.predicted.tolist() == [UNREADABLE, 3]
    assert level_figures(one)["accuracy"] == 0.5
    assert binary_figures(one)["missed"] == 0  # not assessed is not "no tumour"
    assert binary_figures(one)["sensitivity"] == 0


def test_abstention_is_apart_from_forced_answers() -> None:
    one = made()
    result = binary_figures(one)
    said, tumour = one.assessed, one.truth != 3
    called = one.predicted != 3
    assert result["sensitivity"] == pytest.approx(called[tumour].mean())
    assert result["sensitivity_assessed"] == pytest.approx(called[tumour & said].mean())
    assert result["specificity_assessed"] == pytest.approx((~called)[~tumour & said].mean())
    assert result["missed"] == pytest.approx((~called & said)[tumour].mean())


def test_bootstrap_resamples_patients() -> None:
    """Copies of a patient's slices narrow nothing; and the interval is that of a plain loop."""
    one = made(120)
    interval = bootstrap_interval(one.truth, one.predicted, one.groups, balanced_accuracy)
    doubled = [np.concatenate([part, part]) for part in (one.truth, one.predicted, one.groups)]
    assert bootstrap_interval(*doubled, balanced_accuracy) == pytest.approx(interval)
    generator = np.random.default_rng(5)
    members = [np.flatnonzero(one.groups == group) for group in np.unique(one.groups)]
    samples = []
    for _ in range(2000):
        index = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        recalls = [np.mean(one.predicted[index][one.truth[index] == c] == c) for c in np.unique(one.truth[index])]
        samples.append(np.mean(recalls))
    assert interval == pytest.approx(np.percentile(samples, (2.5, 97.5)).tolist(), abs=0.02)


def test_calibration_error_of_a_known_case() -> None:
    probabilities = np.tile(np.array([[0.8, 0.1, 0.1, 0.0]], np.float32), (10, 1))
    truth = np.array([0] * 6 + [1] * 4)
    one = Predictions(truth, probabilities, np.array(["a"] * 10), np.ones(10, bool))
    assert calibration_error(one) == pytest.approx(0.2, abs=1e-6)
