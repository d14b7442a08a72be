"""Slices as the series page shows them, from the files as received, without a model.

All slices of a series share a grey window, so that they can be compared; the windows of the headers differ from slice
to slice. `pixels.windowing` shows single images as their headers say.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from worker.errors import NotAssessable
from worker.inference.preprocess import crop, display_grid
from worker.pixels.decode import DecodedFrame, decode
from worker.pixels.geometry import orient

_SAMPLED_FILES, _SAMPLED_STEP = 7, 4
_PERCENTILES = (1.0, 99.7)

Window = tuple[float, float]


def grey_window(files: Sequence[Path]) -> Window:
    """The real values of black and white, from a few files spread over the series.

    Raises NotAssessable for files that are no images; OSError when a file cannot be opened.
    """
    chosen = [files[round(index)] for index in np.linspace(0, len(files) - 1, min(_SAMPLED_FILES, len(files)))]
    frames = [frame for file in chosen for frame in _spread(_frames_of(file))]
    values = np.concatenate(
        [frame.pixels[::_SAMPLED_STEP, ::_SAMPLED_STEP].ravel() * frame.slope + frame.intercept for frame in frames]
    )
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def slice_png(file: Path, frame_number: int | None, window: Window) -> bytes:
    """A frame, oriented for display, with square pixels, at most 512 x 512: an 8-bit grey PNG.

    `frame_number` counts from 1, None for the only frame. Raises NotAssessable; OSError when the file cannot be opened.
    """
    frames = _frames_of(file)
    if not 1 <= (frame_number or 1) <= len(frames):
        raise NotAssessable("no-such-frame", "The image has fewer frames.")
    frame = orient(frames[(frame_number or 1) - 1])
    shape, step = display_grid(frame)
    grey = np.rint(crop(frame, window, 0.0, 0.0, step, shape) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _spread(frames: Sequence[DecodedFrame]) -> list[DecodedFrame]:
    return [frames[round(index)] for index in np.linspace(0, len(frames) - 1, min(_SAMPLED_FILES, len(frames)))]


def _frames_of(file: Path) -> list[DecodedFrame]:
    return _cached_frames(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # a reader scrolls through the frames of a file
def _cached_frames(file: Path, _changed: int) -> list[DecodedFrame]:
    return decode(file)
