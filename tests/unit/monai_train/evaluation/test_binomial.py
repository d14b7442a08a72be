"""The exact bound against SciPy's Clopper and Pearson, and against every other choice of probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from monai_train.evaluation.binomial import counted_interval, exact_interval, is_degenerate, least_share


@pytest.mark.parametrize("n", [1, 2, 9, 68, 2000])
def test_of_one_share_it_is_clopper_and_pearsons(n: int) -> None:
    interval = binomtest(n, n).proportion_ci(0.95, method="exact")
    assert exact_interval([1.0], [n]) == (pytest.approx(interval.low), 1)
    assert exact_interval([0.0], [n]) == (0, pytest.approx(binomtest(0, n).proportion_ci(0.95, method="exact").high))


def test_nine_of_nine_reach_66_percent() -> None:
    assert round(100 * least_share([9])) == 66


def test_a_mean_of_shares_of_which_some_are_all_right_and_some_none() -> None:
    """A network that always gives the first of four classes: balanced accuracy 25 %, in every resample."""
    low, high = exact_interval([1.0, 0.0, 0.0, 0.0], [9, 7, 7, 7]) or (0, 0)
    assert low == pytest.approx(least_share([9]) / 4)
    assert high == pytest.approx((1 + 3 * (1 - least_share([21]))) / 4)


def test_other_shares_have_no_exact_interval_here() -> None:
    assert exact_interval([1.0, 0.5], [4, 4]) is None
    assert exact_interval([], []) is None


def test_equal_groups_are_as_sure_as_all_patients_together() -> None:
    assert least_share([9, 9, 9]) == pytest.approx(least_share([27]))


def test_many_patients_of_other_classes_do_not_make_few_sure() -> None:
    assert least_share([9, 10_000]) == pytest.approx((least_share([9]) + 1) / 2, abs=1e-3)


@given(patients=st.lists(st.integers(1, 60), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_no_probabilities_of_a_lower_mean_explain_that_all_are_right(patients: list[int], seed: int) -> None:
    bound = least_share(patients)
    generator = np.random.default_rng(seed)
    for probabilities in generator.random((200, len(patients))) ** generator.uniform(0.05, 2, (200, 1)):
        if np.prod(probabilities ** np.array(patients)) >= 0.025:
            assert probabilities.mean() >= bound - 1e-9


@pytest.mark.parametrize(("right", "patients"), [(0, 9), (1, 9), (5, 9), (8, 9), (9, 9), (99, 100)])
def test_a_single_share_has_clopper_and_pearsons_interval(right: int, patients: int) -> None:
    expected = binomtest(right, patients).proportion_ci(0.95, method="exact")
    assert counted_interval(right / patients, patients) == pytest.approx((expected.low, expected.high))
    assert exact_interval([right / patients], [patients]) == pytest.approx((expected.low, expected.high))


def test_a_share_that_is_no_whole_number_of_patients_lies_between() -> None:
    low, high = counted_interval(0.75, 6)
    assert counted_interval(4 / 6, 6)[0] < low < counted_interval(5 / 6, 6)[0]
    assert low < 0.75 < high


@pytest.mark.parametrize(
    ("low", "high", "degenerate"), [(0.5, 0.5, True), (0.7, 1, True), (0, 0.2, True), (0.1, 0.9, False)]
)
def test_an_interval_without_width_or_up_to_an_end_is_degenerate(low: float, high: float, degenerate: bool) -> None:
    assert is_degenerate(low, high) == degenerate
