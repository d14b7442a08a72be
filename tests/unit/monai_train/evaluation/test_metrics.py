"""Every figure against scikit-learn, the treatment of `tumor`, abstention and patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as reference

from monai_train.data.labels import Classes
from monai_train.evaluation.metrics import (
    Predictions,
    balanced_accuracy,
    binary_figures,
    bootstrap_interval,
    calibration_error,
    level_figures,
    share_interval,
    tumour_auc,
)
from tests.testbed.converted import CLASSES


def made(n: int = 300, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 4, n)
    scores = generator.normal(size=(n, 4)) + 1.5 * np.eye(4)[truth]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    groups = np.array([f"G{i}" for i in generator.integers(0, 60, n)])
    return Predictions(CLASSES, truth, probabilities.astype(np.float32), groups, generator.random(n) < 0.8)


def test_figures_equal_scikit_learn() -> None:
    answers = made()
    ours, predicted = level_figures(answers), answers.predicted
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(answers.truth, predicted))
    assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(answers.truth, predicted))
    expected = reference.confusion_matrix(answers.truth, predicted)
    assert np.array_equal(np.array(ours["confusion_matrix"])[:, :4], expected)
    scores = reference.precision_recall_fscore_support(answers.truth, predicted)
    for index, name in enumerate(CLASSES.names):
        row = ours["per_class"][name]
        values = [row["precision"], row["recall"], row["f1"], row["support"]]
        assert values == pytest.approx([column[index] for column in scores])
        others = answers.truth != index
        assert row["specificity"] == pytest.approx(np.mean(predicted[others] != index))
    expected = np.eye(4)[answers.truth]
    assert ours["brier"] == pytest.approx(((answers.probabilities - expected) ** 2).sum(axis=1).mean(), abs=1e-6)


def test_auc_equals_scikit_learn_with_ties() -> None:
    answers = made()
    rounded = Predictions(CLASSES, answers.truth, answers.probabilities.round(1), answers.groups, answers.assessed)
    for case in (answers, rounded):
        expected = reference.roc_auc_score(case.truth != 3, 1 - case.probabilities[:, 3])
        assert tumour_auc(case) == pytest.approx(expected, abs=1e-6)


def test_any_tumour_counts_every_tumour_class_as_right() -> None:
    probabilities = np.array([[0.9, 0.1, 0, 0], [0, 0, 0.8, 0.2], [0, 0.1, 0, 0.9], [0, 0, 0, 1.0]], np.float32)
    truth = np.array([CLASSES.any_tumour, CLASSES.any_tumour, CLASSES.any_tumour, 3])
    answers = Predictions(CLASSES, truth, probabilities, np.array(list("abcd")), np.ones(4, bool))
    assert level_figures(answers)["accuracy"] == pytest.approx(0.75)
    assert level_figures(answers)["per_class"]["tumor"] == {
        "recall": pytest.approx(2 / 3),
        "recall_ci": pytest.approx(list(binomtest(2, 3).proportion_ci(0.95, method="exact"))),
        "support": 3,
    }
    assert binary_figures(answers)["sensitivity"] == pytest.approx(2 / 3)
    assert binary_figures(answers)["specificity"] == 1


def test_unreadable_is_always_wrong() -> None:
    probabilities = np.array([[np.nan] * 4, [0, 0, 0, 1.0]], np.float32)
    answers = Predictions(CLASSES, np.array([0, 3]), probabilities, np.array(["a", "b"]), np.array([False, True]))
    assert answers.predicted.tolist() == [len(CLASSES), 3]
    assert level_figures(answers)["accuracy"] == 0.5
    assert binary_figures(answers)["missed"] == 0  # not assessed is not "no tumour"
    assert binary_figures(answers)["sensitivity"] == 0


def test_abstention_is_apart_from_forced_answers() -> None:
    answers = made()
    result = binary_figures(answers)
    assessed, tumour = answers.assessed, answers.truth != 3
    called = answers.predicted != 3
    assert result["sensitivity"] == pytest.approx(called[tumour].mean())
    assert result["sensitivity_assessed"] == pytest.approx(called[tumour & assessed].mean())
    assert result["specificity_assessed"] == pytest.approx((~called)[~tumour & assessed].mean())
    assert result["missed"] == pytest.approx((~called & assessed)[tumour].mean())


def test_bootstrap_resamples_patients() -> None:
    """Copies of a patient's slices narrow nothing; and the interval is that of a plain loop."""
    answers = made(120)
    interval = bootstrap_interval(answers.truth, answers.predicted, answers.groups, balanced_accuracy, CLASSES)
    doubled = [np.concatenate([part, part]) for part in (answers.truth, answers.predicted, answers.groups)]
    assert bootstrap_interval(*doubled, balanced_accuracy, CLASSES) == pytest.approx(interval)
    generator = np.random.default_rng(5)
    members = [np.flatnonzero(answers.groups == group) for group in np.unique(answers.groups)]
    samples = []
    for _ in range(2000):
        index = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        recalls = [
            np.mean(answers.predicted[index][answers.truth[index] == c] == c) for c in np.unique(answers.truth[index])
        ]
        samples.append(np.mean(recalls))
    assert interval == pytest.approx(np.percentile(samples, (2.5, 97.5)).tolist(), abs=0.02)


def test_calibration_error_of_a_known_case() -> None:
    probabilities = np.tile(np.array([[0.8, 0.1, 0.1, 0.0]], np.float32), (10, 1))
    truth = np.array([0] * 6 + [1] * 4)
    answers = Predictions(CLASSES, truth, probabilities, np.array(["a"] * 10), np.ones(10, bool))
    assert calibration_error(answers) == pytest.approx(0.2, abs=1e-6)


def test_every_share_has_an_interval_that_does_not_collapse() -> None:
    truth, groups = np.repeat([0, 3], 9), np.array([f"G{n}" for n in range(18)])
    answers = Predictions(CLASSES, truth, np.eye(4, dtype=np.float32)[truth], groups, np.ones(18, bool))
    exact = [pytest.approx(0.025 ** (1 / 9)), 1.0]
    binary, levels = binary_figures(answers), level_figures(answers)
    assert binary["sensitivity_ci"] == binary["specificity_ci"] == exact
    assert levels["per_class"]["glioma"]["recall_ci"] == exact
    assert binary["missed_ci"] == binary["false_alarms_ci"] == [0.0, pytest.approx(1 - 0.025 ** (1 / 9))]
    assert (binary["not_assessed"], binary["not_assessed_ci"][0]) == (0.0, 0.0)
    assert 0 < binary["not_assessed_ci"][1] < 0.2
    assert levels["accuracy_ci"] == [pytest.approx(0.025 ** (1 / 18)), 1.0]


def test_of_no_answers_there_is_no_interval() -> None:
    assert share_interval(np.empty(0, bool), np.empty(0, np.str_)) is None


def test_classes_of_any_number_and_order_are_measured() -> None:
    classes = Classes.of(["abscess", "glioma", "notumor", "other"])
    assert classes.names == ("glioma", "other", "notumor", "abscess")
    truth = np.array([0, 1, 2, 3, 4])
    answers = Predictions(
        classes, truth, np.eye(4, dtype=np.float32)[[0, 1, 2, 0, 3]], np.array(list("abcde")), np.ones(5, bool)
    )
    found = level_figures(answers)
    assert list(found["per_class"]) == ["glioma", "other", "notumor", "abscess", "tumor"]
    assert found["per_class"]["tumor"]["recall"] == 1  # any lesion is right
    assert found["accuracy"] == pytest.approx(4 / 5)
    assert (binary_figures(answers)["sensitivity"], binary_figures(answers)["specificity"]) == (1, 1)
