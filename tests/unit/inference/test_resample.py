from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.inference.resample import axis_weights, coverage, resample

PICTURE = np.random.default_rng(2).random((24, 18), np.float32)


@given(
    count=st.integers(1, 300),
    pitch=st.floats(1, 8),
    start=st.floats(-400, 400),
    step=st.floats(0.05, 30),
    outputs=st.integers(1, 200),
)
def test_weights_are_a_mean_of_existing_pixels(
    count: int, pitch: float, start: float, step: float, outputs: int
) -> None:
    axis = axis_weights(count, pitch, start, step, outputs)
    assert axis.weights.shape == axis.indices.shape
    assert axis.indices.min() >= 0
    assert axis.indices.max() < count
    assert axis.weights.min() >= 0
    np.testing.assert_allclose(axis.weights.sum(axis=0), 1, atol=1e-5)
    assert axis.coverage.min() >= 0
    assert axis.coverage.max() <= 1 + 1e-6


def test_same_grid_gives_the_same_picture() -> None:
    rows, columns = axis_weights(24, 1, 0, 1, 24), axis_weights(18, 1, 0, 1, 18)
    np.testing.assert_array_equal(resample(PICTURE, rows, columns), PICTURE)
    np.testing.assert_array_equal(coverage(rows, columns), 1)


def test_halving_weighs_each_pixel_alike() -> None:
    axis = axis_weights(24, 1, 0, 2, 12)
    weights = np.zeros(24)
    np.add.at(weights, axis.indices, axis.weights)
    np.testing.assert_allclose(weights[3:-3], 0.5, atol=1e-6)


def test_shrinking_averages_noise_away() -> None:
    noise = np.random.default_rng(3).standard_normal((400, 400)).astype(np.float32)
    axis = axis_weights(400, 1, 0, 10, 40)
    assert resample(noise, axis, axis).std() < 0.12


def test_a_ramp_stays_a_ramp_in_the_right_place() -> None:
    ramp = np.tile(np.arange(40, dtype=np.float32), (40, 1))
    part = resample(ramp, axis_weights(40, 1, 10, 0.5, 8), axis_weights(40, 1, 10, 0.5, 8))
    np.testing.assert_allclose(part[0], 10 + 0.5 * np.arange(8) + 0.25 - 0.5, atol=1e-5)


def test_oblong_pixels_become_square() -> None:
    ramp = np.tile(np.arange(20, dtype=np.float32)[:, None], (1, 40))
    part = resample(ramp, axis_weights(20, 2, 0, 1, 40), axis_weights(40, 1, 0, 1, 40))
    np.testing.assert_allclose(np.diff(part[1:-1, 0]), 0.5, atol=1e-5)


@pytest.mark.parametrize(("start", "covered"), [(-4, [0, 0, 0, 0, 1, 1]), (-0.5, [0.5, 1, 1, 1, 1, 1])])
def test_coverage_says_what_lies_beyond_the_edge(start: float, covered: list[float]) -> None:
    np.testing.assert_allclose(axis_weights(24, 1, start, 1, 6).coverage, covered)
