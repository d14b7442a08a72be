"""What of a frame's stored bits is image: not an overlay above Bits Stored, and not padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from worker.pixels.arrays import PixelArray
from worker.pixels.attributes import integer


def stored_values(ds: Dataset, pixels: PixelArray) -> PixelArray:
    """The values of a monochrome frame in its Bits Stored, unless these are evidently wrong.

    The sign is extended, and an overlay in the bits above (PS3.5 8.1.1, retired) removed.
    """
    stored, allocated = integer(ds, "BitsStored", 0), pixels.dtype.itemsize * 8
    if pixels.dtype.kind not in "iu" or not 0 < stored < allocated:
        return pixels
    if not str(ds.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
        return pixels
    shift = allocated - stored
    values = np.asarray((pixels << shift) >> shift)
    if (values == pixels).all():
        return pixels
    lacks_sign = pixels.dtype.kind == "i" and pixels.min() >= 0 and pixels.max() < 1 << stored
    return values if lacks_sign or _shows_overlay(pixels, values, stored) else pixels


def _shows_overlay(pixels: PixelArray, values: PixelArray, stored: int) -> bool:
    """Whether the bits above `values` are drawn over the image, and no part of its values.

    Where such bits begin or end, the image itself goes on as smoothly as elsewhere; without them a bright value of a
    wrong Bits Stored would jump to a dark value.
    """
    whole, low = pixels.astype(np.int64), values.astype(np.int64)
    edges, ordinary, jumps = [], [], []
    for axis in (0, 1):
        edge = np.diff(whole - low, axis=axis) != 0
        steps = np.abs(np.diff(low, axis=axis))
        edges.append(steps[edge])
        ordinary.append(steps[~edge])
        jumps.append(np.abs(np.diff(whole, axis=axis))[edge])
    at_edges, elsewhere, across = (np.concatenate(each) for each in (edges, ordinary, jumps))
    if not at_edges.size or not elsewhere.size:
        return False
    step, range_ = float(np.median(at_edges)), 1 << stored
    is_smooth = step <= max(4 * float(np.median(elsewhere)), 0.05 * range_)
    return bool(is_smooth and step / range_ < float(np.median(across)) / np.ptp(whole) / 2)


def padding_of(ds: Dataset, pixels: PixelArray) -> npt.NDArray[np.bool_] | None:
    """Where a monochrome frame has no image (PS3.3 C.7.5.1.1.2): from Pixel Padding Value to Pixel Padding Range Limit.

    None where all of it or nothing is padding.
    """
    value = integer(ds, "PixelPaddingValue", None)
    if value is None or not str(ds.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
        return None
    limit = integer(ds, "PixelPaddingRangeLimit", value)
    ends = np.array([value, limit]).astype(pixels.dtype)  # 63536 is also written for -2000
    padded = (pixels >= ends.min()) & (pixels <= ends.max())
    return padded if padded.any() and not padded.all() else None


def without_padding(pixels: PixelArray, padded: npt.NDArray[np.bool_], photometric: str) -> PixelArray:
    """Set padding to the darkest real value: a padding of -32768 would take up the whole grey scale."""
    real = pixels[~padded]
    return np.where(padded, real.max() if photometric == "MONOCHROME1" else real.min(), pixels)
