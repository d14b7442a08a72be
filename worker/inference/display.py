"""Slices as the series page shows them, from the files as received, without a model.

A slice is shown as its header says: modality transformation, then VOI LUT or window (PS3.3 C.11.2). The slices of a
series whose headers say nothing share a grey window, so that they can be compared.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydicom import Dataset

from worker.errors import NotAssessable
from worker.inference.illustrated import KeyImage
from worker.inference.preprocess import Volume, crop, display_grid
from worker.inference.resample import axis_weights, coverage, resample
from worker.pixels.arrays import ByteArray, FloatArray
from worker.pixels.attributes import integer
from worker.pixels.colour_map import painted
from worker.pixels.decode import decode_frames, open_image, untrusted
from worker.pixels.geometry import OrientedFrame, orient
from worker.pixels.outline import head_outline
from worker.pixels.windowing import (
    SAMPLED_STEP,
    UNCHANGED,
    Adjustment,
    grey_levels,
    has_voi,
    modality_values,
    shown_range,
    usual_range,
    window_between,
)
from worker.results import Activation

_SAMPLED = 7  # files of a series and frames of a file

Range = tuple[float, float]
T = TypeVar("T")


def grey_window(files: Sequence[Path], opening: Callable[[Path], object] = str) -> Range:
    """The real values of black and white of a series without windows, from a few files spread over it.

    `opening` is called with each file before it is decoded. Raises NotAssessable for files that are no images; OSError
    when a file cannot be opened.
    """
    values = []
    for file in _spread(files):
        opening(file)
        ds = _opened(file, file.stat().st_mtime_ns)
        numbers = _spread(range(integer(ds, "NumberOfFrames", 1)))
        for number, frame in zip(numbers, decode_frames(file, ds, numbers), strict=True):
            values.append(modality_values(ds, number, frame.pixels[::SAMPLED_STEP, ::SAMPLED_STEP].ravel()))
    return usual_range(values)


def slice_png(
    file: Path, frame_number: int | None, window: Range | None = None, black: float = 0.0, white: float = 1.0
) -> bytes:
    """A frame, oriented for display, with square pixels, at most 512 x 512: an 8-bit grey PNG.

    `frame_number` counts from 1, None for the only frame. `window` is for an image whose header has none; `black` and
    `white` are fractions of the range that is shown. Raises NotAssessable; OSError when the file cannot be opened.
    """
    ds, frame = _oriented(file, frame_number)
    adjustment = Adjustment(black, white, window_between(*window) if window is not None else None)
    return _png(_shown(ds, frame, adjustment))


def activation_png(file: Path, frame_number: int | None, activation: Activation) -> bytes:
    """The map over a frame as `slice_png` shows it: RGBA, clear below the threshold and outside the head.

    Raises as `slice_png`.
    """
    image = _shown(*_oriented(file, frame_number))
    return _png(painted(_on_slice(activation, image.shape) * head_outline(image)))


def slice_facts(file: Path, frame_number: int | None, window: Range) -> dict[str, Any]:
    """What is written at a slice, null where it is unknown. `window` and faults as in `slice_png`.

    `edges`: as geometry.Edges; `position_mm`; `range`: the values that `slice_png` shows black and white, null for a
    colour image.
    """
    ds, frame = _oriented(file, frame_number)
    return {
        "edges": asdict(frame.edges) if frame.edges else None,
        "position_mm": frame.position_mm,
        "range": shown_range(ds, _index(frame), window_between(*window)) if _is_monochrome(ds) else None,
    }


def key_image(volume: Volume, index: int, activation: FloatArray | None) -> KeyImage:
    """A slice of a volume as its header says that it is displayed, with its map [h, w], which ends at the head.

    A series that has no windows, or was reformatted, is shown by the network's window. Raises NotAssessable;
    OSError as `slice_png`.
    """
    frame = volume.oriented(index)
    image = volume.displayed(index)
    if not volume.is_reformatted:
        ds = open_image(frame.source.path)
        image = _shown(ds, frame) if _is_monochrome(ds) and has_voi(ds, _index(frame)) else image
    if activation is not None:
        activation = volume.map_on_display(index, activation) * head_outline(image)
    return KeyImage(index, image, activation, frame.edges)


@dataclass(frozen=True, slots=True)
class StoredSlice:
    """A slice of a stored result: its index from 0, its file and frame, and its map where that is to be shown."""

    index: int
    file: Path
    frame_number: int | None
    activation: Activation | None


def stored_key_images(slices: Sequence[StoredSlice], files: Sequence[Path]) -> list[KeyImage]:
    """Slices as `slice_png` shows them, with their maps. `files` of the series, which share a window if it has none.

    Raises as `slice_png`.
    """
    images = []
    window: Range | None = None
    for item in slices:
        ds, frame = _oriented(item.file, item.frame_number)
        if window is None and _is_monochrome(ds) and not has_voi(ds, _index(frame)):
            window = grey_window(files)
        image = _shown(ds, frame, Adjustment(0.0, 1.0, window_between(*window) if window is not None else None))
        activation = None
        if item.activation is not None:
            shares = _on_slice(item.activation, image.shape) * head_outline(_shown(ds, frame))
            activation = np.asarray(shares, np.float32)
        images.append(KeyImage(item.index, image, activation, frame.edges))
    return images


def _oriented(file: Path, frame_number: int | None) -> tuple[Dataset, OrientedFrame]:
    ds = _opened(file, file.stat().st_mtime_ns)
    if not 1 <= (frame_number or 1) <= integer(ds, "NumberOfFrames", 1):
        raise NotAssessable("no-such-frame", "The image has fewer frames.")
    return ds, orient(decode_frames(file, ds, [(frame_number or 1) - 1])[0])


def _shown(ds: Dataset, frame: OrientedFrame, adjustment: Adjustment = UNCHANGED) -> ByteArray:
    """A frame as displayed: uint8 [rows, columns] with square pixels; of a colour image its luma, without a window."""
    with untrusted():
        if _is_monochrome(ds):
            levels = grey_levels(ds, _index(frame), frame.pixels, adjustment=adjustment)
        else:
            levels = grey_levels(Dataset(), 0, frame.pixels, adjustment=adjustment)
    grey = replace(frame, pixels=levels, source=replace(frame.source, slope=1.0, intercept=0.0))
    shape, step = display_grid(grey)
    return np.rint(crop(grey, (0.0, 255.0), 0.0, 0.0, step, shape) * 255).astype(np.uint8)


def _index(frame: OrientedFrame) -> int:
    return (frame.source.frame_number or 1) - 1


def _is_monochrome(ds: Dataset) -> bool:
    return str(ds.get("PhotometricInterpretation", "")).startswith("MONOCHROME")


def _on_slice(activation: Activation, shape: tuple[int, ...]) -> FloatArray:
    """A stored map on the grid of a displayed slice, in [0, 1]; 0 outside its square."""
    rows = np.array(activation.rows, np.float32) / 255
    axes = []
    for count, start, length, pixels in zip(
        rows.shape, (activation.top, activation.left), (activation.height, activation.width), shape, strict=True
    ):
        axes.append(axis_weights(count, length * pixels / count, -start * pixels, 1.0, pixels))
    return np.asarray(np.clip(resample(rows, *axes) * coverage(*axes), 0.0, 1.0))


def _png(pixels: ByteArray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _spread(members: Sequence[T]) -> list[T]:
    return [members[round(index)] for index in np.linspace(0, len(members) - 1, min(_SAMPLED, len(members)))]


@lru_cache(maxsize=1)  # a reader scrolls through the frames of a file
def _opened(file: Path, _changed: int) -> Dataset:
    return open_image(file)


def forget_opened() -> None:
    """Release the file that was shown last."""
    _opened.cache_clear()
