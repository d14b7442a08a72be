from __future__ import annotations

import numpy as np
import pytest

from worker.pixels.arrays import ByteArray
from worker.pixels.outline import head_outline

ROWS, COLUMNS = np.mgrid[-1:1:240j, -1:1:200j]
HEAD = (ROWS / 0.8) ** 2 + (COLUMNS / 0.7) ** 2 < 1
SKULL = HEAD & ((ROWS / 0.74) ** 2 + (COLUMNS / 0.64) ** 2 > 1) & ((ROWS / 0.77) ** 2 + (COLUMNS / 0.67) ** 2 < 1)
VENTRICLES = np.hypot(ROWS, COLUMNS) < 0.15


def slice_of_a_head(noise: int = 0) -> ByteArray:
    """A bright scalp, a black ring of bone, brain with black ventricles, in noisy air."""
    grey = np.where(HEAD, 150, 0)
    grey[SKULL | VENTRICLES] = 0
    grey = grey + np.abs(np.random.default_rng(1).normal(0, noise, grey.shape)) if noise else grey
    return np.clip(grey, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0, 12])
def test_head_is_inside_with_its_bone_and_ventricles_and_the_air_is_not(noise: int) -> None:
    outline = head_outline(slice_of_a_head(noise))
    assert outline[HEAD].mean() > 0.98
    assert outline[VENTRICLES].all()
    assert outline[~HEAD].mean() < 0.03


def test_letters_and_a_second_object_are_outside() -> None:
    grey = slice_of_a_head()
    grey[2:12, 2:5] = grey[2:5, 2:9] = 255
    grey[200:230, 180:195] = 200
    outline = head_outline(grey)
    assert not outline[:15, :12].any()
    assert not outline[200:230, 182:195].any()
    assert outline[HEAD].mean() > 0.98


def test_brain_that_is_much_darker_than_fat_belongs_to_the_head() -> None:
    grey = slice_of_a_head()
    grey[HEAD & (grey > 0)] = 45
    grey[HEAD & (np.hypot(ROWS - 0.6, COLUMNS - 0.3) < 0.35)] = 250
    outline = head_outline((grey.astype(int) + 5).astype(np.uint8))
    assert outline[HEAD].mean() > 0.98
    assert outline[~HEAD].mean() < 0.03


def test_a_cavity_that_reaches_the_outside_belongs_to_the_head() -> None:
    grey = slice_of_a_head()
    grey[110:130, :90] = 0  # a throat
    assert head_outline(grey)[112:128, 60:90].all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (512, 3), (64, 64)])
def test_everything_is_inside_where_no_head_stands_out(shape: tuple[int, int]) -> None:
    assert head_outline(np.full(shape, 9, np.uint8)).all()
    assert head_outline(np.full(shape, 9, np.uint8)).shape == shape


def test_specks_alone_are_no_head() -> None:
    grey = np.zeros((96, 96), np.uint8)
    grey[40:42, 50:52] = 255
    assert head_outline(grey).all()


def test_large_slice_is_as_a_small_one() -> None:
    small, large = head_outline(slice_of_a_head()), head_outline(np.kron(slice_of_a_head(), np.ones((2, 2), np.uint8)))
    assert abs(small.mean() - large.mean()) < 0.01
