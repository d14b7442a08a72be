"""DICOM files → the input tensor of a model, as its bundle defines it, for a whole series at once.

    decode → orient for display, sort along the normal → reformat a 3-D series to axial slices → find the head
           → grey window of the series → crop a square around the head of each slice
           → size x size, 0 to 1 in 256 levels in steps of 1/255

Training reads single slices (often Secondary Captures without geometry), the worker reads series. Both call
`preprocess`: a single slice is a series of length 1. So that the two agree,

- the crop is computed **per slice**, as on training's single slices, but is never smaller than `minimum_extent` of the
  largest head in the series: at the vertex a few bright pixels must not be magnified to the size of a head;
- the grey window is computed **over the series**, so that the relative brightness of slices is preserved; for a single
  slice it is the slice's own window;
- head and window are found on a thumbnail of fixed size, so a 150-pixel and a 1,920-pixel image of the same slice give
  nearly the same tensor, and noise averages out.

All steps are linear up to the clip and the rounding to 256 levels at the end; a rescale that all slices share cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.errors import NotAssessable, StartError
from worker.inference.reformat import Reformatted, reformat
from worker.inference.resample import axis_weights, coverage, resample
from worker.pixels.arrays import ByteArray, FloatArray
from worker.pixels.background import blacken_background
from worker.pixels.decode import DecodedFrame, decode_series
from worker.pixels.geometry import OrientedFrame, Plane, stack

LEVELS = np.float32(255)
DISPLAY_SIZE = 512  # the longest side of a displayed slice
_TARGET = "worker.inference.preprocess.Preprocessing"
_LATER = (frozenset({"slice_spacing_mm", "reformat_below_mm"}), frozenset({"grey_background"}))  # earlier bundles lack
_NOISE_PROFILE = 0.08  # a row or column belongs to the head from this fraction of the fullest row's or column's pixels


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing definition: the "preprocessing" object of a bundle's configs/inference.json.

    size               rows and columns of the tensor
    lower_percentile   of the values in the heads' boxes: becomes 0
    upper_percentile   of the same values: becomes 1
    margin             added on each side of the head's box, as a fraction of its longer side
    minimum_extent     smallest crop, as a fraction of the largest in the series
    head_threshold     head is brighter than this fraction of the way from the darkest value to Otsu's threshold
    thumbnail          longest side of the image on which head and window are found
    slice_spacing_mm   distance of the axial slices to which a 3-D series is reformatted (`reformat`); 0: never
    reformat_below_mm  a series whose slices are less than this apart is a 3-D series; 0: none is
    grey_background    of the grey range above the darkest: a background from there on becomes 0; 0: none does
    """

    size: int = 160
    lower_percentile: float = 1.0
    upper_percentile: float = 99.5
    margin: float = 0.04
    minimum_extent: float = 0.6
    head_threshold: float = 0.6
    thumbnail: int = 96
    slice_spacing_mm: float = 0.0
    reformat_below_mm: float = 0.0
    grey_background: float = 0.0

    def __post_init__(self) -> None:
        sound = (
            16 <= self.size <= 1024
            and 0 <= self.lower_percentile < self.upper_percentile <= 100
            and 0 <= self.margin <= 1
            and 0 < self.minimum_extent <= 1
            and 0 < self.head_threshold <= 1
            and 16 <= self.thumbnail <= 512
            and (self.slice_spacing_mm == self.reformat_below_mm == 0 or 1 <= self.slice_spacing_mm <= 20)
            and 0 <= self.reformat_below_mm <= self.slice_spacing_mm
            and 0 <= self.grey_background <= 0.5
        )
        if not sound:
            raise StartError("preprocessing-invalid", "The preprocessing definition has a value out of range.")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """From the bundle's JSON object, which has every key and no other, but may lack _LATER. Raises StartError."""
        given = {key: 0.0 for later in _LATER if not later & values.keys() for key in later}
        given |= {key: value for key, value in values.items() if key != "_target_"}
        if values.get("_target_", _TARGET) != _TARGET:
            raise StartError("preprocessing-invalid", "The preprocessing definition names another implementation.")
        expected = {field.name: int if field.type == "int" else float for field in fields(cls)}
        for key in sorted(given.keys() ^ expected.keys()):
            fault = "is unknown" if key in given else "is missing"
            raise StartError("preprocessing-invalid", f"The preprocessing key {key!r} {fault}.")
        for key, kind in expected.items():
            if isinstance(given[key], bool) or not isinstance(given[key], (int, kind)):
                raise StartError("preprocessing-invalid", f"The preprocessing key {key!r} is not a number.")
        converted: dict[str, Any] = {key: kind(given[key]) for key, kind in expected.items()}
        return cls(**converted)

    def to_json(self) -> dict[str, Any]:
        """The JSON object for configs/inference.json."""
        return {"_target_": _TARGET, **asdict(self)}


@dataclass(frozen=True)
class Frame:
    """What identifies a slice of the stack; `frame_number` counts from 1, None for a single-frame file."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position_mm: float | None
    plane: Plane | None


@dataclass(frozen=True)
class Square:
    """The square of a slice that its tensor covers, in display pixels; it may extend beyond the slice."""

    top: float
    left: float
    side: float


@dataclass(frozen=True)
class Volume:
    """A series ready for a model: `tensor` float32 [slices, 1, size, size] in [0, 1], in stack order.

    `frames` and `squares` belong to the slices of the tensor; `rows` and `columns` are those of the files.
    """

    tensor: FloatArray
    frames: tuple[Frame, ...]
    modalities: frozenset[str]
    rows: int
    columns: int
    squares: tuple[Square, ...]
    _slices: tuple[OrientedFrame, ...]
    _window: tuple[float, float]
    _reformatted: Reformatted | None = None
    _sources: tuple[Frame, ...] = ()

    def oriented(self, index: int) -> OrientedFrame:
        """Slice `index` with its pixels as stored."""
        return self._slices[index]

    @property
    def plane(self) -> Plane | None:
        """The plane of the slices; None without geometry."""
        return self._slices[0].plane

    @property
    def is_reformatted(self) -> bool:
        """The slices were made of those of a 3-D series, of which `frames` names those that pass through the heads."""
        return self._reformatted is not None

    def frame_at(self, index: int, row: float, column: float) -> tuple[Frame, tuple[float, ...] | None]:
        """The received frame that stands for slice `index` at a point (fractions of its square), and the square on it.

        The square is in fractions of the displayed frame: top, left, height, width (results.Activation); None where
        the frame does not show it, because a slice was reformatted across the frames.
        """
        if self._reformatted is None:
            return self.frames[index], self.square_on_display(index)
        square = self.squares[index]
        point = square.top + row * square.side, square.left + column * square.side
        source = self._reformatted.source(index, *point)
        middle = square.top + square.side / 2, square.left + square.side / 2
        return self._sources[source], self._reformatted.on_source(index, *middle, square.side, source)

    def displayed(self, index: int) -> ByteArray:
        """Slice `index` in the network's window: oriented, square pixels; uint8 [rows, columns], at most 512 x 512."""
        frame = self._slices[index]
        shape, step = display_grid(frame)
        return np.rint(crop(frame, self._window, 0.0, 0.0, step, shape) * 255).astype(np.uint8)

    def square_on_display(self, index: int) -> tuple[float, float, float, float]:
        """The slice's square as fractions of the displayed slice: top, left, height, width (see results.Activation)."""
        (top, left, height, width), (rows, columns) = self.region(index), self._slices[index].extent
        return top / rows, left / columns, height / rows, width / columns

    def region(self, index: int) -> tuple[float, float, float, float]:
        """What of the slice its tensor covers, in display pixels: top, left, height, width."""
        square = self.squares[index]
        return square.top, square.left, square.side, square.side

    def upright(self, maps: FloatArray) -> FloatArray:
        """Maps [n, outputs, h, w] over the tensors of slices, turned as the slices are displayed."""
        return maps

    def map_on_display(self, index: int, activation: FloatArray) -> FloatArray:
        """A map [h, w] over the slice's tensor, resampled to the grid of `displayed(index)`; 0 outside the crop."""
        top, left, height, width = self.region(index)
        shape, step = display_grid(self._slices[index])
        rows = axis_weights(activation.shape[0], height / activation.shape[0], -top, step, shape[0])
        columns = axis_weights(activation.shape[1], width / activation.shape[1], -left, step, shape[1])
        return resample(activation, rows, columns) * coverage(rows, columns)


def preprocess(paths: Sequence[Path], definition: Preprocessing) -> Volume:
    """Preprocess the files of a series, in any order, as the definition says.

    Raises NotAssessable: the reasons of `decode` and `geometry.stack`, and no-images, image-too-large, blank-image.
    """
    decoded = decode_series(paths)
    received = _relative(stack(decoded))
    made = reformat(received, definition.slice_spacing_mm, definition.reformat_below_mm)
    slices = received if made is None else made.slices
    tensor, squares, window = _tensor(slices, definition)
    volume = Volume(
        tensor=tensor,
        frames=tuple(frame_of(item) for item in slices),
        modalities=frozenset(frame.modality for frame in decoded),
        rows=decoded[0].pixels.shape[0],
        columns=decoded[0].pixels.shape[1],
        squares=tuple(squares),
        _slices=tuple(slices),
        _window=window,
        _reformatted=made,
        _sources=tuple(frame_of(item) for item in received) if made is not None else (),
    )
    if made is None:
        return volume
    middles = [volume.frame_at(index, 0.5, 0.5)[0] for index in range(len(slices))]
    positions = [frame.position_mm for frame in volume.frames]
    return replace(volume, frames=tuple(replace(f, position_mm=z) for f, z in zip(middles, positions, strict=True)))


def preprocess_image(pixels: npt.NDArray[Any], definition: Preprocessing) -> FloatArray:
    """Preprocess an image [rows, columns] of integers with square pixels, already upright → [1, size, size].

    Exactly what `preprocess` gives for that image stored as a Secondary Capture without geometry.
    Raises NotAssessable: blank-image.
    """
    source = DecodedFrame(Path(), "", "", "", 0, None, pixels, 1.0, 0.0, (1.0, 1.0), None, None)
    tensor, _, _ = _tensor([OrientedFrame(source, pixels, (1.0, 1.0), None, None)], definition)
    return np.asarray(tensor[0])


def _relative(slices: Sequence[OrientedFrame]) -> list[OrientedFrame]:
    """The slices with their values in the units of the first slice's stored pixels.

    So a scale that all share cancels exactly, and rounding cannot move a pixel across the head's threshold.
    """
    unit, zero = abs(slices[0].source.slope), slices[0].source.intercept
    return [
        replace(
            item,
            source=replace(
                item.source, slope=item.source.slope / unit, intercept=(item.source.intercept - zero) / unit
            ),
        )
        for item in slices
    ]


def frame_of(oriented: OrientedFrame) -> Frame:
    """What identifies a slice."""
    source = oriented.source
    return Frame(
        source.path,
        source.sop_class_uid,
        source.sop_instance_uid,
        source.frame_number,
        oriented.position_mm,
        oriented.plane,
    )


def _tensor(
    slices: Sequence[OrientedFrame], definition: Preprocessing
) -> tuple[FloatArray, list[Square], tuple[float, float]]:
    """The tensor, the square of each slice and the grey window of the series."""
    thumbnails, scale = _thumbnails(slices, definition.thumbnail)
    least = definition.grey_background
    if least and (blackened := blacken_background(slices, thumbnails, least)) is not None:
        slices, thumbnails = blackened, _thumbnails(blackened, definition.thumbnail)[0]
    boxes = _head_boxes(thumbnails, definition.head_threshold)
    window = _window(thumbnails, boxes, definition)
    squares = _squares(boxes, scale, slices[0].extent, definition)
    shape = (definition.size, definition.size)
    tensor = np.empty((len(slices), 1, *shape), np.float32)
    for index, (frame, square) in enumerate(zip(slices, squares, strict=True)):
        grey = crop(frame, window, square.top, square.left, square.side / definition.size, shape)
        # 256 levels, so that the bytes in which training stores its images are exactly this tensor.
        tensor[index, 0] = np.rint(grey * LEVELS) / LEVELS
    return tensor, squares, window


def crop(
    frame: OrientedFrame, window: tuple[float, float], top: float, left: float, step: float, shape: tuple[int, int]
) -> FloatArray:
    """Crop and window a frame: `shape` pixels of `step` display pixels each, in [0, 1], 0 beyond the frame."""
    rows = axis_weights(frame.pixels.shape[0], frame.pitch[0], top, step, shape[0])
    columns = axis_weights(frame.pixels.shape[1], frame.pitch[1], left, step, shape[1])
    lower, upper = window
    factor, offset = frame.source.slope / (upper - lower), (frame.source.intercept - lower) / (upper - lower)
    grey = resample(frame.pixels, rows, columns) * np.float32(factor) + np.float32(offset)
    return np.clip(grey, 0.0, 1.0, out=grey) * coverage(rows, columns)


def display_grid(frame: OrientedFrame) -> tuple[tuple[int, int], float]:
    """(rows, columns) of the displayed slice and the width of its pixels in display pixels."""
    height, width = frame.extent
    step = max(1.0, max(height, width) / DISPLAY_SIZE)
    return (max(1, round(height / step)), max(1, round(width / step))), step


def _thumbnails(slices: Sequence[OrientedFrame], longest: int) -> tuple[FloatArray, float]:
    """Real values of every slice at low resolution, [slices, rows, columns], and display pixels per thumbnail pixel."""
    first = slices[0]
    height, width = first.extent
    scale = max(height, width) / longest
    shape = max(1, round(height / scale)), max(1, round(width / scale))
    rows = axis_weights(first.pixels.shape[0], first.pitch[0], 0.0, height / shape[0], shape[0])
    columns = axis_weights(first.pixels.shape[1], first.pitch[1], 0.0, width / shape[1], shape[1])
    thumbnails = np.empty((len(slices), *shape), np.float32)
    for index, frame in enumerate(slices):
        thumbnails[index] = resample(frame.pixels, rows, columns)
        thumbnails[index] *= np.float32(frame.source.slope)
        thumbnails[index] += np.float32(frame.source.intercept)
    return thumbnails, scale


Box = tuple[int, int, int, int]  # top, bottom, left, right on the thumbnail, ends exclusive


def _head_boxes(thumbnails: FloatArray, head_threshold: float) -> list[Box | None]:
    """Where the head is on each thumbnail; None where a slice has none. Raises NotAssessable: blank-image."""
    darkest, brightest = float(thumbnails.min()), float(np.percentile(thumbnails, 99.8))
    if not brightest > darkest:
        raise NotAssessable("blank-image", "The images of the series are blank.")
    threshold = darkest + head_threshold * (_otsu(thumbnails, darkest, brightest) - darkest)
    masks = thumbnails > threshold
    return [_box(mask) if mask.any() else None for mask in masks]


def _otsu(values: FloatArray, low: float, high: float) -> float:
    """The threshold that separates the values into the two classes of least inner variance (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    means_below = sums[:-1] / np.maximum(below, 1)
    means_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (means_below - means_above) ** 2))])


def _box(mask: npt.NDArray[np.bool_]) -> Box:
    """The rows and columns of the largest object; text burnt into a corner and noise do not count."""
    top, bottom = _fullest_run(mask.sum(axis=1))
    left, right = _fullest_run(mask[top:bottom].sum(axis=0))
    top, bottom = _fullest_run(mask[:, left:right].sum(axis=1))
    return top, bottom, left, right


def _fullest_run(profile: npt.NDArray[np.integer[Any]]) -> tuple[int, int]:
    """(start, end) of the run of occupied rows or columns that has most pixels."""
    occupied = np.concatenate(([False], profile > _NOISE_PROFILE * profile.max(), [False]))
    starts, ends = np.flatnonzero(np.diff(occupied.astype(np.int8))).reshape(-1, 2).T
    totals = np.concatenate(([0], np.cumsum(profile)))
    longest = int(np.argmax(totals[ends] - totals[starts]))
    return int(starts[longest]), int(ends[longest])


def _window(thumbnails: FloatArray, boxes: Sequence[Box | None], definition: Preprocessing) -> tuple[float, float]:
    """The values that become 0 and 1. Raises NotAssessable: blank-image."""
    inside = [
        thumbnail[box[0] : box[1], box[2] : box[3]].ravel()
        for thumbnail, box in zip(thumbnails, boxes, strict=True)
        if box is not None
    ]
    percentiles = (definition.lower_percentile, definition.upper_percentile)
    lower, upper = (float(value) for value in np.percentile(np.concatenate(inside), percentiles))
    if not upper > lower:
        raise NotAssessable("blank-image", "The images of the series are blank.")
    return lower, upper


def _squares(
    boxes: Sequence[Box | None], scale: float, extent: tuple[float, float], definition: Preprocessing
) -> list[Square]:
    """The square to crop from each slice; a slice without a head gets the largest square, at its centre."""
    sides = [max(box[1] - box[0], box[3] - box[2]) * scale if box is not None else 0.0 for box in boxes]
    largest = max(sides)
    squares = []
    for box, side in zip(boxes, sides, strict=True):
        extended = max(side, definition.minimum_extent * largest) if box is not None else largest
        extended *= 1 + 2 * definition.margin
        row = (box[0] + box[1]) / 2 * scale if box is not None else extent[0] / 2
        column = (box[2] + box[3]) / 2 * scale if box is not None else extent[1] / 2
        squares.append(Square(row - extended / 2, column - extended / 2, extended))
    return squares
