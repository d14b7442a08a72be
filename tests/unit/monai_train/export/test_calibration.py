"""Temperature, thresholds and limits of a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_train.export.calibration import (
    distribution_limits,
    feature_statistics,
    minimum_brain,
    minimum_no_tumour,
)
from tests.testbed.converted import CLASSES
from worker.inference.aggregate import distance_and_residual
from worker.inference.bundle import load_bundle


def test_thresholds_were_fitted(exported: Path) -> None:
    bundle = load_bundle(exported)
    assert bundle.temperature != 1.0
    assert 0.5 <= bundle.thresholds.minimum_probability < 1
    assert bundle.out_of_distribution.maximum_distance < 1e6
    assert bundle.out_of_distribution.maximum_residual < 1e6


def test_limits_accept_the_share_they_were_asked_for() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(500, 40)).astype(np.float32)
    distance, residual = distance_and_residual(features, feature_statistics(features, 8))
    limits = distribution_limits(distance, residual, 0.9)
    accepted = np.mean((distance <= limits[0]) & (residual <= limits[1]))
    assert 0.9 <= accepted < 0.93


def test_statistics_are_the_principal_components() -> None:
    generator = np.random.default_rng(1)
    features = (generator.normal(size=(400, 6)) * [9, 5, 3, 0.1, 0.1, 0.1] + 2).astype(np.float32)
    statistics = feature_statistics(features, 3)
    assert statistics.mean == pytest.approx(features.mean(axis=0), abs=1e-5)
    assert statistics.components @ statistics.components.T == pytest.approx(np.eye(3), abs=1e-5)
    assert statistics.scale == pytest.approx(
        ((features - statistics.mean) @ statistics.components.T).std(0, ddof=1), rel=1e-3
    )
    assert statistics.scale[0] == pytest.approx(9, rel=0.1)


def test_few_features_have_as_many_components_as_they_allow() -> None:
    assert feature_statistics(np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)).components.shape == (
        2,
        40,
    )


def test_all_but_a_fortieth_of_the_slices_with_brain_have_a_say() -> None:
    probabilities = np.linspace(0.6, 1, 401)
    assert minimum_brain(probabilities.astype(np.float32)) == pytest.approx(0.61)
    assert minimum_brain(np.full(40, 0.999, np.float32)) == 0.97
    assert minimum_brain(np.full(40, 0.2, np.float32)) == minimum_brain(np.array([], np.float32)) == 0.5


def test_at_most_a_hundredth_of_the_tumours_exceed_the_minimum_of_no_tumour() -> None:
    generator = np.random.default_rng(2)
    probabilities = generator.dirichlet([1, 1, 1, 0.5], 1000).astype(np.float32)
    labels = [0] * 500 + [CLASSES.any_tumour] * 400 + [3] * 100
    minimum = minimum_no_tumour(probabilities, labels, CLASSES)
    assert np.mean(probabilities[:900, 3] > minimum) <= 0.01
    assert minimum <= 0.9
    assert minimum_no_tumour(np.array([[0, 0, 0.01, 0.99]], np.float32), [2], CLASSES) == 0.9
