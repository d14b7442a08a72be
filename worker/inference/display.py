"""Slices as the series page shows them, from the files as received, without a model.

All slices of a series share a grey window, so that they can be compared; the windows of the headers differ from slice
to slice. `pixels.windowing` shows single images as their headers say.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from pydicom import Dataset

from worker.errors import NotAssessable
from worker.inference.preprocess import crop, display_grid
from worker.pixels.attributes import integer
from worker.pixels.decode import decode_frames, open_image
from worker.pixels.geometry import orient

_SAMPLED, _SAMPLED_STEP = 7, 4  # files of a series and frames of a file; rows and columns
_PERCENTILES = (1.0, 99.7)

Window = tuple[float, float]
T = TypeVar("T")


def grey_window(files: Sequence[Path], opening: Callable[[Path], object] = str) -> Window:
    """The real values of black and white, from a few files spread over the series.

    `opening` is called with each file before it is decoded. Raises NotAssessable for files that are no images; OSError
    when a file cannot be opened.
    """
    values = []
    for file in _spread(files):
        opening(file)
        ds = _opened(file, file.stat().st_mtime_ns)
        for frame in decode_frames(file, ds, _spread(range(integer(ds, "NumberOfFrames", 1)))):
            sampled = frame.pixels[::_SAMPLED_STEP, ::_SAMPLED_STEP].ravel()
            values.append(sampled * frame.slope + frame.intercept)
    low, high = (float(value) for value in np.percentile(np.concatenate(values), _PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def slice_png(file: Path, frame_number: int | None, window: Window) -> bytes:
    """A frame, oriented for display, with square pixels, at most 512 x 512: an 8-bit grey PNG.

    `frame_number` counts from 1, None for the only frame. Raises NotAssessable; OSError when the file cannot be opened.
    """
    ds = _opened(file, file.stat().st_mtime_ns)
    if not 1 <= (frame_number or 1) <= integer(ds, "NumberOfFrames", 1):
        raise NotAssessable("no-such-frame", "The image has fewer frames.")
    frame = orient(decode_frames(file, ds, [(frame_number or 1) - 1])[0])
    shape, step = display_grid(frame)
    grey = np.rint(crop(frame, window, 0.0, 0.0, step, shape) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _spread(members: Sequence[T]) -> list[T]:
    return [members[round(index)] for index in np.linspace(0, len(members) - 1, min(_SAMPLED, len(members)))]


@lru_cache(maxsize=1)  # a reader scrolls through the frames of a file
def _opened(file: Path, _changed: int) -> Dataset:
    return open_image(file)


def forget_opened() -> None:
    """Release the file that was shown last."""
    _opened.cache_clear()
