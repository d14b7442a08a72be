"""Which backgrounds are grey, and which are air, anatomy or paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worker.pixels.arrays import FloatArray
from worker.pixels.background import blacken_background, heads_on_grey
from worker.pixels.decode import DecodedFrame
from worker.pixels.geometry import OrientedFrame

LEAST = 0.1
SIZE = 96


def _head(air: float, fluid: float, noise: float = 0.0) -> FloatArray:
    """Two slices: tissue from 30 to 90 with a dark ventricle, in air; the second slice has no ventricle."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    inside, ventricle = np.hypot(x, y) < 0.7, np.hypot(x, y) < 0.2
    first = np.where(inside, np.where(ventricle, fluid, 60 + 40 * x), air)
    slices = np.stack([first, np.where(inside, 60 + 40 * x, air)])
    return np.asarray(slices + np.random.default_rng(1).normal(0, noise, slices.shape), np.float32)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_head_in_grey_air_is_found_with_what_is_darker_in_it(noise: float) -> None:
    for slices in (_head(air=10, fluid=-20, noise=noise), _head(air=0, fluid=-60, noise=noise)):
        heads = heads_on_grey(slices, LEAST)
        assert heads is not None
        assert heads[:, SIZE // 2, SIZE // 2].all()  # the ventricle, too
        assert not heads[:, :8].any()
        assert heads.mean() == pytest.approx(np.pi * 0.7**2 / 4, abs=0.03)


@pytest.mark.parametrize(
    ("slices", "why"),
    [
        (_head(air=0, fluid=5), "air is the darkest"),
        (_head(air=2, fluid=0, noise=1.5), "noise below air"),
        (_head(air=90, fluid=0), "as bright as tissue: an inverted picture"),
        (_head(air=10, fluid=-20, noise=15), "not uniform"),
        (np.full((1, 40, 40), 7, np.float32), "blank"),
        (np.broadcast_to(np.linspace(0, 100, SIZE, dtype=np.float32), (1, SIZE, SIZE)), "anatomy up to the border"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_backgrounds_are_left_alone(slices: FloatArray, why: str) -> None:
    assert heads_on_grey(slices, LEAST) is None, why


def test_a_shoulder_at_one_side_leaves_enough_of_the_border() -> None:
    slices = _head(air=10, fluid=-20)
    slices[:, :, :20] = 80.0
    assert heads_on_grey(slices, LEAST) is not None
    slices[:, 40:] = np.linspace(0, 90, SIZE, dtype=np.float32)
    assert heads_on_grey(slices, LEAST) is None


def test_outside_the_head_a_slice_becomes_as_black_as_the_darkest_of_the_head() -> None:
    thumbnails = _head(air=10, fluid=-20)
    stored = np.rint((thumbnails[0].repeat(2, axis=0).repeat(2, axis=1) + 100) / 0.5).astype(np.uint16)
    source = DecodedFrame(Path(), "", "", "", 0, None, stored, 0.5, -100.0, (1.0, 1.0), None, None)
    blackened = blacken_background([OrientedFrame(source, stored, (1.0, 1.0), None, None)], thumbnails[:1], LEAST)
    assert blackened is not None
    (made,) = blackened
    assert (made.source.slope, made.source.intercept) == (1.0, 0.0)
    assert made.pixels[:16].max() == made.pixels.min() == made.pixels[SIZE, SIZE] == pytest.approx(-20, abs=0.5)
    assert made.pixels[SIZE, SIZE + 50] == pytest.approx(thumbnails[0][SIZE // 2, SIZE // 2 + 25], abs=1)
    assert blacken_background([made], _head(air=0, fluid=5)[:1], LEAST) is None
