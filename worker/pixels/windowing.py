"""Stored values → the grey levels of a display: modality transformation, then VOI transformation (PS3.4 N.2).

Each is looked for in the functional groups of the frame, in the shared groups, and at the top level of the image.

modality   Pixel Value Transformation (PS3.3 C.7.6.16.2.9): Modality LUT or rescale (C.11.1)
VOI        Frame VOI LUT (C.7.6.16.2.10): VOI LUT Sequence or window (C.11.2)

This is for a person's eye; the network's grey window is computed from the series (docs/decisions/0003).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from worker.pixels.arrays import ByteArray
from worker.pixels.attributes import finite_numbers, frame_sources, sequence_item
from worker.pixels.stored_values import padding_of, stored_values

Values = npt.NDArray[Any]

_PERCENTILES = (1.0, 99.7)  # of an image without a VOI transformation: a few pixels must not darken the others
SAMPLED_STEP = 4  # rows and columns of the samples of `usual_range`


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056): PS3.3 C.11.2.1.3."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center and Window Width, in the units after the modality transformation; the width is above 0."""

    center: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR

    def apply(self, values: Values) -> Values:
        """Grey levels 0-255, float64, of the shape of `values`."""
        function = self.function
        if function is VoiFunction.LINEAR and self.width < 1:
            function = VoiFunction.LINEAR_EXACT  # C.11.2.1.2.1 forbids such a width, but it occurs
        ds = _output_range()
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = self.center, self.width, str(function)
        return np.asarray(apply_voi_lut(values, ds))


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What a reader makes of the VOI transformation: the fractions of its range that become black and white.

    `instead` is the window of an image without a transformation, in place of a window that holds nearly all its values.
    """

    black: float = 0.0
    white: float = 1.0
    instead: Window | None = None

    def stretch(self, values: Values, first: float, length: float) -> Values:
        """Values so moved that the transformation of `first` to `first + length` shows them adjusted."""
        if (self.black, self.white) == (0.0, 1.0):
            return values
        return np.asarray(first + (values - first - self.black * length) / (self.white - self.black))


UNCHANGED = Adjustment()


def grey_levels(
    ds: Dataset, frame: int, stored: Values, window: Window | None = None, adjustment: Adjustment = UNCHANGED
) -> ByteArray:
    """A monochrome frame as displayed, black 0 to white 255: `stored` [rows, columns] → uint8 of the same shape.

    `frame` counts from 0. `window` replaces the VOI transformation of the image, `adjustment` changes it; an image that
    has none is shown by a window that holds nearly all its values. MONOCHROME1 is inverted. Padding is black.
    """
    stored = stored_values(ds, stored)
    padded = padding_of(ds, stored)
    if padded is not None:
        stored = np.where(padded, stored[~padded].min(), stored)
    lowest, highest = int(stored.min()), int(stored.max())
    if stored.dtype.kind in "iu" and highest - lowest < stored.size:  # each value that can occur is transformed once
        values: Values = np.arange(lowest, highest + 1)
        index: Values | None = stored.astype(np.intp) - lowest
    else:
        values, index = stored, None
    shown = index if padded is None else ~padded if index is None else index[~padded]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values of the header, and an overflow of SIGMOID far outside its window
        values = modality_values(ds, frame, values)
        grey = window.apply(values) if window is not None else _voi(ds, frame, values, shown, adjustment)
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = 255 - grey
    eight_bits: ByteArray = np.rint(np.clip(np.nan_to_num(grey), 0, 255)).astype(np.uint8)
    picture = eight_bits if index is None else eight_bits[index]
    return picture if padded is None else np.where(padded, np.uint8(0), picture)


def has_voi(ds: Dataset, frame: int) -> bool:
    """Whether the header of a monochrome image tells how a frame is displayed."""
    return _voi_of_header(ds, frame) is not None


def shown_range(ds: Dataset, frame: int, instead: Window) -> tuple[float, float]:
    """The values, after the modality transformation, that `grey_levels` shows black and white in a monochrome frame.

    `instead` is the window of an image that has no VOI transformation.
    """
    found = _voi_of_header(ds, frame) or instead
    if isinstance(found, _Lut):
        return float(found.first), float(found.first + len(found.entries) - 1)
    return found.center - found.width / 2, found.center + found.width / 2


def modality_values(ds: Dataset, frame: int, values: Values) -> Values:
    """Stored values after the modality transformation, of the same shape."""
    for source in _sources(ds, frame, "PixelValueTransformationSequence"):
        if (table := _lut(ds, source, "ModalityLUTSequence")) is not None:
            return np.asarray(apply_modality_lut(table.clip(values), _only(ModalityLUTSequence=[table.item])))
        slope, intercept = finite_numbers(source, "RescaleSlope"), finite_numbers(source, "RescaleIntercept")
        if slope or intercept:
            factor, offset = slope[0] if slope else 1.0, intercept[0] if intercept else 0.0
            return np.asarray(apply_modality_lut(values, _only(RescaleSlope=factor, RescaleIntercept=offset)))
    return values


def _voi(ds: Dataset, frame: int, values: Values, shown: Values | None, adjustment: Adjustment) -> Values:
    """Grey levels 0-255 by the image's own transformation; `shown` selects of `values` those of the image."""
    found = _voi_of_header(ds, frame) or adjustment.instead
    if isinstance(found, _Lut):
        moved = found.clip(adjustment.stretch(values, found.first, len(found.entries) - 1))
        entries = apply_voi_lut(moved, _only(VOILUTSequence=[found.item]))
        return np.asarray(entries * (255.0 / found.highest))
    window = found or window_between(*np.percentile(values if shown is None else values[shown], _PERCENTILES))
    return window.apply(adjustment.stretch(values, window.center - window.width / 2, window.width))


def _voi_of_header(ds: Dataset, frame: int) -> _Lut | Window | None:
    """The VOI transformation of a frame, the most specific first; of one place a table before a window."""
    for source in _sources(ds, frame, "FrameVOILUTSequence"):
        if (found := _lut(ds, source, "VOILUTSequence") or _window(source)) is not None:
            return found
    return None


def usual_range(samples: Sequence[Values]) -> tuple[float, float]:
    """The real values of black and white of a series without windows, from samples of its images."""
    low, high = (float(value) for value in np.percentile(np.concatenate(samples), _PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def window_between(black: float, white: float) -> Window:
    """The window that shows a value as black and a higher value as white."""
    black, white = float(black), float(white)
    width = max(white - black, 1e-6)
    return Window(black + width / 2, width, VoiFunction.LINEAR_EXACT)


def _window(source: Dataset) -> Window | None:
    """The first of the windows that a dataset offers; None where it offers none that can be applied."""
    center, width = finite_numbers(source, "WindowCenter"), finite_numbers(source, "WindowWidth")
    if not center or not width or width[0] <= 0:
        return None
    try:
        function = VoiFunction(str(source.get("VOILUTFunction") or VoiFunction.LINEAR).strip().upper())
    except ValueError:
        return None
    return Window(center[0], width[0], function)


@dataclass(frozen=True, slots=True)
class _Lut:
    """A Modality or VOI LUT: the stored value `first` becomes the first of the `entries`, white is `highest`."""

    first: int
    entries: Values
    highest: int

    def clip(self, values: Values) -> Values:
        """Integers within what the entries are for: a value beyond becomes that of the first or last entry."""
        return np.clip(np.rint(values), self.first, self.first + len(self.entries) - 1).astype(np.int64)

    @property
    def item(self) -> Dataset:
        """For pydicom, which indexes in the type of the entries: of 8 bits it would not reach beyond 256."""
        ds = Dataset()
        ds.LUTDescriptor = [len(self.entries) % (1 << 16), self.first, 16]
        ds.add_new("LUTData", "US", self.entries.tolist())
        return ds


def _lut(ds: Dataset, source: Dataset, keyword: str) -> _Lut | None:
    """The first LUT of a sequence (PS3.3 C.11.1.1, C.11.2.1.1); None where it is absent or damaged."""
    item = sequence_item(source, keyword, 0)
    descriptor = finite_numbers(item, "LUTDescriptor")
    if item is None or len(descriptor) != 3 or not 8 <= descriptor[2] <= 16 or item.get("LUTData") is None:
        return None
    count, first, bits = int(descriptor[0]) % (1 << 16) or 1 << 16, int(descriptor[1]), int(descriptor[2])
    data = item.LUTData
    if not isinstance(data, bytes):
        entries = np.array(finite_numbers(item, "LUTData")).astype(np.int64)
    elif bits == 8 and len(data) < 2 * count:
        entries = np.frombuffer(data, np.uint8)
    else:
        order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
        entries = np.frombuffer(data, f"{order}u2", len(data) // 2)
    usable = 1 < count <= len(entries) and entries.min() >= 0 and entries.max() < 1 << 16
    return _Lut(first, entries[:count], (1 << bits) - 1) if usable else None


def _sources(ds: Dataset, frame: int, group: str) -> Iterator[Dataset]:
    """Where a transformation of a frame may be written, the most specific first."""
    for source in frame_sources(ds, frame):
        if (item := sequence_item(source, group, 0)) is not None:
            yield item
    yield ds


def _only(**elements: Any) -> Dataset:
    """A dataset of these elements, so that nothing else of an image takes part in a transformation."""
    ds = _output_range()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def _output_range() -> Dataset:
    """What pydicom derives the range of its output from: 0 to 255."""
    ds = Dataset()
    ds.PhotometricInterpretation, ds.BitsStored, ds.PixelRepresentation = "MONOCHROME2", 8, 0
    return ds
