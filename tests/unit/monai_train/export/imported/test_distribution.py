"""Limits hold for images like those of the import, and not for others; too few images set none."""

from __future__ import annotations

import numpy as np

from monai_train.export.imported.distribution import LEAST_IMAGES, fit_distribution
from worker.inference.aggregate import distance_and_residual


def test_limits_accept_like_images_and_refuse_others() -> None:
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(3, 12))

    def features(count: int) -> np.ndarray:
        return (generator.normal(size=(count, 3)) @ mixing + 0.05 * generator.normal(size=(count, 12))).astype(
            np.float32
        )

    fitted = fit_distribution(features(120))
    assert fitted.is_limited
    for others, least, most in ((features(200), 0.95, 1.0), (features(200) + 9, 0.0, 0.02)):
        distance, residual = distance_and_residual(others, fitted.statistics)
        accepted = np.mean((distance <= fitted.maximum_distance) & (residual <= fitted.maximum_residual))
        assert least <= accepted <= most


def test_few_images_set_no_limits() -> None:
    fitted = fit_distribution(np.random.default_rng(0).normal(size=(LEAST_IMAGES - 1, 5)).astype(np.float32))
    assert not fitted.is_limited
    single = fit_distribution(np.ones((1, 5), np.float32))
    assert single.statistics.components.shape == (0, 5)
