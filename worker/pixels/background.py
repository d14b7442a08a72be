"""A background that is grey where air should be black: phase-sensitive and real images of inversion recovery.

Air is 0 there, and what inverts, as fluid does, is below it. Only what lies outside the head is made black: what is
darker than air is anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from worker.pixels.arrays import ByteArray, FloatArray
from worker.pixels.geometry import OrientedFrame
from worker.pixels.outline import Mask, head_outline

_EDGE = 2  # pixels of a thumbnail's border that show air, where the head does not touch it
_SPREAD = 0.04  # of the grey range: pixels no further from the border's median are of the background
_UNIFORM = 0.6  # at least this share of the border is background
_BRIGHTEST = 0.6  # of the grey range: a brighter border is a sheet of paper, or an inverted picture
_DARKEST, _LIGHTEST = 1.0, 99.5  # percentiles between which the grey range lies


def blacken_background(
    slices: Sequence[OrientedFrame], thumbnails: FloatArray, least: float
) -> Sequence[OrientedFrame] | None:
    """The slices of a series, black outside the head, if their background is grey; None for another background.

    `thumbnails` are real values [slices, rows, columns]; for `least` see `heads_on_grey`.
    """
    heads = heads_on_grey(thumbnails, least)
    if heads is None:
        return None
    black = float(np.percentile(thumbnails[heads], _DARKEST))
    return [_blackened(item, head, black) for item, head in zip(slices, heads, strict=True)]


def heads_on_grey(thumbnails: FloatArray, least: float) -> Mask | None:
    """True within the heads of a series with a uniform grey background, [slices, rows, columns]; None for another.

    Grey is what lies at least the share `least` of the range of grey values above the darkest.
    """
    edges = [*range(_EDGE), *range(-_EDGE, 0)]
    border = np.concatenate([thumbnails[:, edges].ravel(), thumbnails[..., edges].ravel()])
    darkest, lightest = (float(value) for value in np.percentile(thumbnails[:, ::2, ::2], (_DARKEST, _LIGHTEST)))
    level, extent = float(np.median(border)), lightest - darkest
    if extent <= 0 or not least * extent <= level - darkest <= _BRIGHTEST * extent:
        return None
    if (np.abs(border - level) <= _SPREAD * extent).mean() < _UNIFORM:
        return None
    contrast = np.abs(thumbnails - level) / extent
    contrast[contrast <= _SPREAD] = 0
    levels: ByteArray = np.rint(255 * contrast.clip(0, 1)).astype(np.uint8)
    heads = np.stack([head_outline(own) for own in levels])
    heads[heads.all(axis=(1, 2))] = False  # where no head stands out
    return heads if heads.any() else None


def _blackened(item: OrientedFrame, head: Mask, black: float) -> OrientedFrame:
    """The real values of a slice, `black` at least and outside the head, whose mask is that of the thumbnail."""
    rows, columns = item.pixels.shape
    full = Image.fromarray(head.astype(np.uint8) * 255).resize((columns, rows), Image.Resampling.BILINEAR)
    real = np.maximum(item.pixels * np.float32(item.source.slope) + np.float32(item.source.intercept), black)
    pixels = np.where(np.asarray(full) > 127, real, black).astype(np.float32)
    return replace(item, source=replace(item.source, slope=1.0, intercept=0.0), pixels=pixels)
