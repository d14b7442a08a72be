"""The outline of the head on a displayed slice: an activation map says nothing about the air around it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from worker.pixels.arrays import ByteArray

Mask = npt.NDArray[np.bool_]

_LONGEST = 96  # of the image on which the outline is found: noise averages out
_OF_OTSU = 0.7  # the head is brighter than this fraction of Otsu's threshold, both as square roots above the darkest
_SPECK = 5  # what is narrower is noise, or a letter that a scanner burnt in
_OUTSIDE, _INSIDE, _FOUND = 0, 255, 128


def head_outline(image: ByteArray) -> Mask:
    """True within the head: grey [rows, columns] → [rows, columns]; everywhere where no head stands out.

    The largest bright object without its holes: air, bone and ventricles within it belong to the head, and so does the
    air of the nose and throat, which reaches the outside.
    """
    rows, columns = image.shape
    scale = min(1.0, _LONGEST / max(rows, columns))
    small = Image.fromarray(image).resize(
        (max(1, round(columns * scale)), max(1, round(rows * scale))), Image.Resampling.BOX
    )
    grey = np.asarray(small)
    if grey.min() == grey.max():
        return np.ones(image.shape, np.bool_)
    # Square roots: beside very bright fat, brain would be nearer to the air.
    roots = np.sqrt((grey - grey.min()).astype(np.float64))
    levels = np.rint(roots * (255 / roots.max())).astype(np.uint8)
    bright = levels > _OF_OTSU * _otsu(levels)
    head = _largest(_without_holes(Image.fromarray(np.where(bright, _INSIDE, _OUTSIDE).astype(np.uint8))))
    if not head.any():
        return np.ones(image.shape, np.bool_)
    full = Image.fromarray(np.where(_with_cavities(head), _INSIDE, _OUTSIDE).astype(np.uint8))
    return np.asarray(full.resize((columns, rows), Image.Resampling.BILINEAR)) > _INSIDE // 2


def _otsu(grey: ByteArray) -> float:
    """The level that separates the pixels into the two classes of least inner variance (Otsu 1979)."""
    counts = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    sums = np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    means = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    return float(np.argmax(below * above * (means[0] - means[1]) ** 2)) + 0.5


def _without_holes(mask: Image.Image) -> Image.Image:
    """All that the outside does not reach, through gaps of at most two pixels, without specks."""
    padded = Image.new("L", (mask.width + 8, mask.height + 8), _OUTSIDE)
    padded.paste(mask, (4, 4))
    closed = padded.filter(ImageFilter.MaxFilter(3))
    ImageDraw.floodfill(closed, (0, 0), _FOUND)
    filled = closed.point(lambda level: _OUTSIDE if level == _FOUND else _INSIDE).filter(ImageFilter.MinFilter(3))
    opened = filled.filter(ImageFilter.MinFilter(_SPECK)).filter(ImageFilter.MaxFilter(_SPECK))
    return opened.crop((4, 4, 4 + mask.width, 4 + mask.height))


def _with_cavities(head: Mask) -> Mask:
    """What has head on at least three of its four sides is head."""
    sides = [np.maximum.accumulate(head, axis=axis) for axis in (0, 1)]
    sides += [np.flip(np.maximum.accumulate(np.flip(head, axis), axis=axis), axis) for axis in (0, 1)]
    return np.asarray(head | (np.sum(sides, axis=0) >= 3), np.bool_)


def _largest(mask: Image.Image) -> Mask:
    """The largest object of a mask; all False where there is none."""
    left = mask.copy()
    largest = np.zeros((mask.height, mask.width), np.bool_)
    while (start := np.argwhere(np.asarray(left) == _INSIDE)[:1]).size:
        ImageDraw.floodfill(left, (int(start[0, 1]), int(start[0, 0])), _FOUND)
        found = np.asarray(left) == _FOUND
        if found.sum() > largest.sum():
            largest = found
        left.paste(_OUTSIDE, mask=Image.fromarray(found))
    return largest
