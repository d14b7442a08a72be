"""What the model's images look like, by the features of the series with which it is imported.

Half of them make the statistics, the other half the limits, so that these are not those of the same images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_train.export.calibration import distribution_limits, feature_statistics
from worker.inference.aggregate import distance_and_residual
from worker.inference.bundle import FeatureStatistics
from worker.pixels.arrays import FloatArray

LEAST_IMAGES = 20  # from which limits are set
_ACCEPTED, _WIDENED = 0.99, 1.5
_IMAGES_A_COMPONENT, _MOST_COMPONENTS = 4, 16
_UNLIMITED = 1e9


@dataclass(frozen=True)
class Distribution:
    """Statistics and limits; without limits, as `is_limited` says, every image is accepted."""

    statistics: FeatureStatistics
    maximum_distance: float
    maximum_residual: float

    @property
    def is_limited(self) -> bool:
        return self.maximum_distance < _UNLIMITED


def fit_distribution(features: FloatArray) -> Distribution:
    """Statistics and limits of features [n, F] of images in any order that mixes their series."""
    count = len(features)
    components = max(1, min(_MOST_COMPONENTS, count // 2 // _IMAGES_A_COMPONENT))
    if count < LEAST_IMAGES:
        return Distribution(feature_statistics(features, components), _UNLIMITED, _UNLIMITED)
    statistics = feature_statistics(features[::2], components)
    distance, residual = distribution_limits(*distance_and_residual(features[1::2], statistics), _ACCEPTED)
    least = float(np.finfo(np.float32).tiny)
    return Distribution(statistics, max(_WIDENED * distance, least), max(_WIDENED * residual, least))
