"""Every weighted figure against scikit-learn, and the paired bootstrap of patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as reference

from monai_train.evaluation.intervals import (
    estimates,
    figure_counts,
    paired_differences,
    patient_draws,
    share_estimate,
    weighted_figures,
)
from monai_train.evaluation.metrics import Predictions, binary_figures, level_figures
from tests.testbed.converted import CLASSES


def made(n: int = 240, seed: int = 0, skill: float = 1.5, decimals: int = 2) -> Predictions:
    """Answers of a made model with ties in its probabilities; `seed` changes them but not the questions."""
    binary_questions = np.random.default_rng(99)
    truth = binary_questions.integers(0, 4, n)
    groups = np.array([f"G{i}" for i in binary_questions.integers(0, 50, n)])
    scores = np.random.default_rng(seed).normal(size=(n, 4)) + skill * np.eye(4)[truth]
    probabilities = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).round(decimals)
    return Predictions(CLASSES, truth, probabilities.astype(np.float32), groups, np.ones(n, bool))


@pytest.mark.parametrize("weights", ["ones", "drawn"])
def test_every_figure_equals_scikit_learn(weights: str) -> None:
    answers = made()
    drawn = np.ones((1, 240), int) if weights == "ones" else patient_draws(answers.groups)[:1]
    ours = {name: value[0] for name, value in weighted_figures(answers, drawn).items()}
    weight, predicted, truth = drawn[0], answers.predicted, answers.truth
    given = {"sample_weight": weight}
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted, **given))
    assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, predicted, **given))
    assert ours["mcc"] == pytest.approx(reference.matthews_corrcoef(truth, predicted, **given))
    table = reference.precision_recall_fscore_support(truth, predicted, **given)
    for index, name in enumerate(CLASSES.names):
        for figure, column in zip(("precision", "recall", "f1"), table, strict=False):
            assert ours[f"{figure}.{name}"] == pytest.approx(column[index])
        of_class, score = truth == index, answers.probabilities[:, index]
        assert ours[f"auc.{name}"] == pytest.approx(reference.roc_auc_score(of_class, score, **given))
        expected = reference.average_precision_score(of_class, score, **given)
        assert ours[f"average_precision.{name}"] == pytest.approx(expected)
        expected = reference.recall_score(~of_class, predicted != index, **given)
        assert ours[f"specificity.{name}"] == pytest.approx(expected)
    score = 1 - answers.probabilities[:, 3].astype(float)
    assert ours["auc.tumour"] == pytest.approx(reference.roc_auc_score(truth != 3, score, **given))
    assert ours["sensitivity"] == pytest.approx(reference.recall_score(truth != 3, predicted != 3, **given))
    loss = ((answers.probabilities - np.eye(4)[truth]) ** 2).sum(axis=1)
    assert ours["brier"] == pytest.approx(np.average(loss, weights=weight), abs=1e-6)


def test_weights_mean_that_a_patient_occurs_so_often() -> None:
    """Weighted figures are those of the answers repeated, calibration included."""
    answers = made(80)
    weight = patient_draws(answers.groups)[3]
    index = np.repeat(np.arange(80), weight)
    repeated = Predictions(
        CLASSES,
        answers.truth[index],
        answers.probabilities[index],
        answers.groups[index],
        answers.assessed[index],
    )
    ours = weighted_figures(answers, weight[None])
    for name, value in weighted_figures(repeated, np.ones((1, len(index)))).items():
        assert ours[name] == pytest.approx(value, nan_ok=True), name


def test_estimates_agree_with_the_fixed_figures_of_evaluate() -> None:
    answers = made()
    plain, with_intervals = level_figures(answers), estimates(answers)
    for name, key in (("accuracy",) * 2, ("balanced_accuracy",) * 2, ("ece",) * 2, ("brier",) * 2):
        assert with_intervals[name].value == pytest.approx(plain[key])
    low, high = plain["balanced_accuracy_ci"]
    assert with_intervals["balanced_accuracy"].low == pytest.approx(low)
    assert with_intervals["balanced_accuracy"].high == pytest.approx(high)
    assert with_intervals["auc.tumour"].value == pytest.approx(plain["tumour_auc"])
    assert with_intervals["sensitivity"].value == pytest.approx(binary_figures(answers)["sensitivity"])
    assert with_intervals["recall.glioma"].n == plain["per_class"]["glioma"]["support"]
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in with_intervals.values())


def test_truths_that_only_say_tumour_and_unreadable_pictures_leave_what_they_can_tell() -> None:
    probabilities = np.array([[0.9, 0.1, 0, 0], [0, 0, 0.2, 0.8], [0, 0, 0, 1.0], [np.nan] * 4], np.float32)
    truth = np.array([CLASSES.any_tumour, CLASSES.any_tumour, 3, 3])
    found = estimates(Predictions(CLASSES, truth, probabilities, np.array(list("abcd")), np.ones(4, bool)))
    assert found["sensitivity"].value == 0.5
    assert found["specificity"].value == 0.5
    assert found["auc.tumour"].value == 1
    assert found["auc.tumour"].n == 3
    assert found["auc.glioma"].value is None
    assert found["recall.glioma"].value is None
    assert found["accuracy"].n == 4


def test_of_tumours_alone_no_curve_is_summed_up() -> None:
    answers = made()
    tumours = answers.truth != 3
    parts = answers.truth, answers.probabilities, answers.groups, answers.assessed
    found = estimates(Predictions(CLASSES, *(part[tumours] for part in parts)))
    assert found["auc.tumour"].value is None
    assert found["average_precision.tumour"].value is None
    assert found["average_precision.glioma"].value is not None


def perfect(patients: tuple[int, ...], slices: int = 3) -> Predictions:
    """All right and sure: so many patients with each class, so many slices of each."""
    labels = [label for label, n in enumerate(patients) for _ in range(n)]
    truth = np.repeat(labels, slices)
    groups = np.repeat([f"G{i}" for i in range(len(labels))], slices)
    return Predictions(CLASSES, truth, np.eye(4, dtype=np.float32)[truth], groups, np.ones(len(truth), bool))


def test_where_all_are_right_the_interval_is_that_of_as_many_patients() -> None:
    found = estimates(perfect((9, 20, 5, 12)))
    lower = {n: binomtest(n, n).proportion_ci(0.95, method="exact").low for n in (5, 9, 12, 34, 46)}
    for name, n in (
        ("accuracy", 46), ("sensitivity", 34), ("specificity", 12), ("recall.glioma", 9), ("precision.pituitary", 5),
        ("specificity.notumor", 34), ("auc.tumour", 12), ("auc.glioma", 9),
    ):  # fmt: skip
        assert (found[name].low, found[name].high) == (pytest.approx(lower[n]), 1), name
        assert found[name].value == 1
    assert found["recall.glioma"].text(in_percent=True) == "100.0 % (66.4-100.0)"
    assert lower[5] < found["balanced_accuracy"].low < lower[46]
    assert found["f1.glioma"].low == pytest.approx(2 * lower[9] / (1 + lower[9]))


def test_where_none_is_right_the_interval_reaches_up() -> None:
    answers = perfect((9, 9, 9, 9))
    found = estimates(
        Predictions(CLASSES, answers.truth, answers.probabilities[:, [1, 2, 3, 0]], answers.groups, answers.assessed)
    )
    assert found["recall.glioma"].text(in_percent=True) == "0.0 % (0.0-33.6)"
    assert found["balanced_accuracy"].low == 0
    assert found["balanced_accuracy"].high == pytest.approx(1 - 0.025 ** (1 / 36))


def test_a_network_that_always_gives_one_class_has_an_interval() -> None:
    answers = perfect((9, 9, 9, 9))
    always = Predictions(
        CLASSES,
        answers.truth,
        np.eye(4, dtype=np.float32)[np.zeros(len(answers.truth), int)],
        answers.groups,
        answers.assessed,
    )
    found = estimates(always)["balanced_accuracy"]
    assert found.value == 0.25
    assert found.low == pytest.approx(0.025 ** (1 / 9) / 4)
    assert [found.low, found.high] == pytest.approx(level_figures(always)["balanced_accuracy_ci"])


def test_a_figure_that_is_no_share_has_no_interval_where_resamples_agree() -> None:
    found = estimates(perfect((9, 9, 9, 9)))
    for name in ("mcc", "average_precision.tumour"):
        assert (found[name].value, found[name].low, found[name].high) == (1, None, None), name
        assert found[name].text() == "1.000"


def test_patients_that_are_all_half_right_have_the_interval_of_as_many_patients() -> None:
    truth = np.array([0, 0] * 6)
    probabilities = np.eye(4, dtype=np.float32)[np.array([0, 1] * 6)]
    halves = Predictions(CLASSES, truth, probabilities, np.repeat(list("abcdef"), 2), np.ones(12, bool))
    expected = binomtest(3, 6).proportion_ci(0.95, method="exact")
    found = estimates(halves)["accuracy"]
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert level_figures(halves)["accuracy_ci"] == pytest.approx([expected.low, expected.high])
    assert share_estimate(truth == halves.predicted, halves.groups).low == pytest.approx(expected.low)


def test_an_interval_that_reaches_all_is_that_of_as_many_patients() -> None:
    hits = np.array([True] * 8 + [False])
    found = share_estimate(hits, np.array(list("abcdefghi")))
    expected = binomtest(8, 9).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_models_that_never_differ_may_still_differ_on_other_patients() -> None:
    answers = perfect((9, 9, 9, 9))
    found = paired_differences(answers, answers)
    width = 1 - 0.025 ** (1 / 36)
    assert (found["accuracy"].value, found["accuracy"].low, found["accuracy"].high) == (
        0, pytest.approx(-width), pytest.approx(width),
    )  # fmt: skip
    assert found["specificity"].high == pytest.approx(1 - 0.025 ** (1 / 9))


def test_shares_and_fixed_figures_are_exact_too() -> None:
    answers = perfect((9, 9, 9, 9))
    low = 0.025 ** (1 / 9)
    share = share_estimate(np.ones(9, bool), np.array(list("abcdefghi")))
    assert (share.low, share.high) == (pytest.approx(low), 1)
    assert binary_figures(answers)["specificity_ci"] == [pytest.approx(low), 1]
    assert binary_figures(answers)["sensitivity_assessed_ci"] == [pytest.approx(0.025 ** (1 / 27)), 1]
    assert level_figures(answers)["balanced_accuracy_ci"] == [
        pytest.approx(estimates(answers)["balanced_accuracy"].low),
        1,
    ]


def test_no_answers_no_estimates() -> None:
    nothing = Predictions(
        CLASSES, np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty(0, str), np.empty(0, bool)
    )
    assert estimates(nothing) == {}


def test_paired_difference_is_narrower_than_two_intervals_and_zero_against_itself() -> None:
    weak, strong = made(skill=1.0), made(skill=2.5)
    difference = paired_differences(strong, weak)["balanced_accuracy"]
    apart = [estimates(answers)["balanced_accuracy"] for answers in (strong, weak)]
    assert difference.value == pytest.approx(apart[0].value - apart[1].value)
    assert difference.low > 0
    unpaired = np.hypot(*(estimate.high - estimate.low for estimate in apart))
    assert difference.high - difference.low < unpaired
    same = paired_differences(weak, weak)["mcc"]
    assert (same.value, same.low, same.high) == (0, None, None)


def test_paired_difference_refuses_other_questions() -> None:
    answers = made(60)
    other = Predictions(CLASSES, answers.truth[::-1].copy(), answers.probabilities, answers.groups, answers.assessed)
    with pytest.raises(ValueError, match="same pictures"):
        paired_differences(answers, other)


def test_counts_name_every_figure() -> None:
    answers = made(30)
    assert figure_counts(answers).keys() == weighted_figures(answers, np.ones((1, 30))).keys()
