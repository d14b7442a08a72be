from __future__ import annotations

import numpy as np
import pytest

from worker.pixels.colour_map import ACTIVATION_THRESHOLD, colours, overlay, painted


def test_map_is_clear_below_the_threshold() -> None:
    image = np.full((4, 5), 100, dtype=np.uint8)
    activation = np.full((4, 5), ACTIVATION_THRESHOLD - 0.01, dtype=np.float32)
    activation[0, 0], activation[0, 1] = 1.0, np.nan
    seen, layer = overlay(image, activation), painted(activation)
    assert (seen[1:] == 100).all()
    assert (seen[0, 1] == 100).all()
    assert np.ptp(seen[0, 0].astype(int)) > 60
    assert layer.shape == (4, 5, 4)
    assert layer[0, 0, 3] == 255
    assert layer[..., 3].sum() == 255


def test_colours_are_those_of_plasma() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    values = np.linspace(0, 1, 101, dtype=np.float32)
    expected = matplotlib.colormaps["plasma"](values)[:, :3] * 255
    assert np.abs(colours(values) - expected).max() < 8
