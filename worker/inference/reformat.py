"""A 3-D series → axial slices such as training knows, each the mean of what lies between two planes.

The planes are z = 0, ±s, ±2s, ... in patient coordinates (PS3.3 C.7.6.2.1.1), so that the series of a study share them.
Voxels are averaged along the axis of the acquisition that is nearest to z, between exactly these planes: where the
acquisition is tilted, the ends of each line differ, and the line's middle gives the place within the slice. A bilinear
map then puts the lines onto an upright grid (x to the right, y downwards, square pixels). Memory is bounded: beside the
result, one block of lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from worker.errors import NotAssessable
from worker.pixels.arrays import FloatArray
from worker.pixels.geometry import OrientedFrame, Plane, Vector

FINEST_PIXEL_MM = 0.8  # finer than any network's input
MAXIMUM_SIDE = 1024  # pixels of a reformatted slice
_BLOCK = 1 << 21  # voxels that are averaged at once
_COVERED = 0.5  # of a line between two planes that must lie in the volume
_UPRIGHT = 0.7  # cosine between the normal and the way from slice to slice, which is 1 but for odd headers
_LEVELS = 65535
_RIGHT, _DOWN = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Reformatted:
    """Axial slices from the bottom to the top, and where they lie among the slices of the acquisition.

    `normal` and `positions_mm` [sources] are those of the acquisition's slices, `centres` [sources, 3] their middles in
    the patient, `directions` their display's, `size_mm` height and width, `plane` theirs.
    """

    slices: tuple[OrientedFrame, ...]
    plane: Plane
    normal: Vector
    positions_mm: Vector
    centres: Vector
    directions: tuple[Vector, Vector]
    size_mm: tuple[float, float]

    def source(self, index: int, row: float, column: float) -> int:
        """The slice of the acquisition through a point of slice `index`, in pixels from its top left corner."""
        return int(np.abs(self.positions_mm - self._patient(index, row, column) @ self.normal).argmin())

    def on_source(self, index: int, row: float, column: float, side: float, source: int) -> tuple[float, ...] | None:
        """A square of slice `index` around a point, in pixels: (top, left, height, width) in fractions of the displayed
        slice of the acquisition. None where that is not axial: it does not show the square.
        """
        if self.plane != Plane.AXIAL:
            return None
        right, down = self.directions
        offset = self._patient(index, row, column) - self.centres[source]
        height, width = (side * self.slices[index].spacing[0] / size for size in self.size_mm)
        middle = 0.5 + offset @ down / self.size_mm[0], 0.5 + offset @ right / self.size_mm[1]
        return float(middle[0] - height / 2), float(middle[1] - width / 2), height, width

    def _patient(self, index: int, row: float, column: float) -> Vector:
        source = self.slices[index].source
        pixel = source.spacing[0]
        return np.array(source.position) + (column - 0.5) * pixel * _RIGHT + (row - 0.5) * pixel * _DOWN


def reformat(slices: Sequence[OrientedFrame], spacing_mm: float, below_mm: float) -> Reformatted | None:
    """Axial slices `spacing_mm` apart of a stack whose slices are less than `below_mm` apart; None for any other stack.

    Raises NotAssessable incomplete where slices are missing over more than `spacing_mm`.
    """
    positions = [item.position_mm for item in slices if item.position_mm is not None]
    if len(slices) < 2 or len(positions) < len(slices) or slices[0].plane is None:
        return None
    gaps = np.diff(positions)
    usual = float(np.median(gaps))
    if not usual < below_mm:
        return None
    if gaps.max() > max(spacing_mm, 2 * usual):
        raise NotAssessable("incomplete", f"Slices are missing: a gap of {gaps.max():.0f} mm in a 3-D series.")
    volume = _Volume.of(slices, np.array(positions), usual)
    if not usual > _UPRIGHT * float(np.linalg.norm(volume.steps[volume.axes.index(0)])):
        return None
    first, count = volume.slabs(spacing_mm)
    if count < 1:
        return None
    return _reformatted(slices, volume.upright(first, count, spacing_mm), np.array(positions))


def _reformatted(slices: Sequence[OrientedFrame], made: list[OrientedFrame], positions: Vector) -> Reformatted:
    displayed = slices[0]
    right, down = displayed.directions or (_RIGHT, _DOWN)
    normal = np.cross(right, down)
    height, width = (count * step for count, step in zip(displayed.pixels.shape, displayed.spacing, strict=True))
    centres = np.array([_middle(item) for item in slices])
    return Reformatted(
        slices=tuple(made),
        plane=displayed.plane or Plane.AXIAL,
        normal=normal if (centres[-1] - centres[0]) @ normal > 0 else -normal,
        positions_mm=positions,
        centres=centres,
        directions=(right, down),
        size_mm=(height, width),
    )


def _middle(item: OrientedFrame) -> Vector:
    """The middle of a frame in the patient."""
    source = item.source
    rows, columns = source.pixels.shape
    along_row, along_column = _in_plane(item)
    return np.asarray(np.array(source.position) + along_row * (columns - 1) / 2 + along_column * (rows - 1) / 2)


def _in_plane(item: OrientedFrame) -> tuple[Vector, Vector]:
    """From a column, and from a row, of the stored frame to the next, in mm."""
    cosines = np.array(item.source.orientation, np.float64)
    return cosines[:3] * item.source.spacing[1], cosines[3:] * item.source.spacing[0]


@dataclass(frozen=True)
class _Volume:
    """The voxels as lines along the axis nearest to z: index m along a line, p and q over the lines.

    `axes`: which axis of [frames, rows, columns] each of m, p and q is; `counts` [3] and `steps` [3, 3], in mm, are
    theirs. A frame that is missing is replaced by the nearest.
    """

    frames: tuple[OrientedFrame, ...]
    axes: tuple[int, int, int]
    counts: tuple[int, int, int]
    steps: Vector
    origin: Vector

    @classmethod
    def of(cls, slices: Sequence[OrientedFrame], positions: Vector, usual: float) -> _Volume:
        origin = np.array(slices[0].source.position)
        length = np.array(slices[-1].source.position) - origin
        count = 1 + round((positions[-1] - positions[0]) / usual)
        even = np.linspace(positions[0], positions[-1], count)
        after = np.clip(np.searchsorted(positions, even), 1, len(positions) - 1)
        nearest = after - (even - positions[after - 1] <= positions[after] - even)
        along_row, along_column = _in_plane(slices[0])
        steps = np.array([length / (count - 1), along_column, along_row])
        counts = (count, *slices[0].source.pixels.shape)
        upward = int((np.abs(steps[:, 2]) / np.linalg.norm(steps, axis=1)).argmax())
        axes = (upward, *(axis for axis in range(3) if axis != upward))
        ordered = tuple(slices[index] for index in nearest)
        return cls(ordered, axes, tuple(counts[axis] for axis in axes), steps[list(axes)], origin)  # type: ignore[arg-type]

    def slabs(self, spacing_mm: float) -> tuple[int, int]:
        """(the first slab, how many): those of which at least half lies on the middle line."""
        middle = (np.array(self.counts[1:]) - 1) / 2 @ self.steps[1:, 2] + self.origin[2]
        ends = sorted(middle + (np.array([0, self.counts[0]]) - 0.5) * self.steps[0, 2])
        first, end = math.ceil(ends[0] / spacing_mm - 0.5), math.floor(ends[1] / spacing_mm + 0.5)
        return first, end - first

    def upright(self, first: int, count: int, spacing_mm: float) -> list[OrientedFrame]:
        """The slabs as axial frames, from the bottom to the top."""
        means = self._slab_means(np.asarray(spacing_mm * np.arange(first, first + count + 1, dtype=np.float64)))
        middles = np.asarray(spacing_mm * (first + 0.5 + np.arange(count, dtype=np.float64)))
        over_z = self.steps[:, :2] - np.outer(self.steps[:, 2] / self.steps[0, 2], self.steps[0, :2])
        shifts = self.origin[:2] + np.outer((middles - self.origin[2]) / self.steps[0, 2], self.steps[0, :2])
        grid = _Grid.around(over_z[1:], self.counts[1:], shifts)
        pixels = np.empty((count, *grid.shape), np.float32)
        for index, shift in enumerate(shifts):
            grid.fill(pixels[index], means[index], shift)
        return self._frames(pixels, grid, middles)

    def _slab_means(self, bounds: Vector) -> FloatArray:
        """[slabs, p, q]: the mean of each line between two planes z; NaN where too little of it lies in the volume."""
        length, lines, across = self.counts
        tilts = self.steps[1:, 2] / self.steps[0, 2]
        shortest = _COVERED * abs((bounds[1] - bounds[0]) / self.steps[0, 2])
        means = np.empty((len(bounds) - 1, lines, across), np.float32)
        for start, block in self._blocks():
            sums = np.zeros((length + 1, *block.shape[1:]), np.float32)
            for index, layer in enumerate(block):  # np.cumsum along the first axis takes twenty times as long
                np.add(sums[index], layer, out=sums[index + 1])
            p = np.arange(start, start + block.shape[1])[:, None]
            offsets = p * tilts[0] + np.arange(across) * tilts[1]
            ends = ((bounds - self.origin[2]) / self.steps[0, 2] + 0.5)[:, None, None] - offsets
            ends = np.clip(ends, 0, length)
            covered = np.diff(ends, axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                mean = np.diff(_between(sums, ends), axis=0) / covered
            means[:, start : start + block.shape[1]] = np.where(np.abs(covered) >= shortest, mean, np.nan)
        return means

    def _blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """(the first p, voxels [m, some p, q] in real values)."""
        length, lines, across = self.counts
        some = max(1, _BLOCK // (length * across))
        for start in range(0, lines, some):
            if self.axes[0] == 0:
                parts = [_real(item, slice(start, start + some)) for item in self.frames]
                yield start, np.stack(parts)
            else:
                parts = [_real(item) for item in self.frames[start : start + some]]
                yield start, np.ascontiguousarray(np.moveaxis(np.stack(parts), self.axes[0], 0))

    def _frames(self, pixels: FloatArray, grid: _Grid, middles: Vector) -> list[OrientedFrame]:
        """Frames of 16 bits, which hold less memory; what lies beyond the volume is as dark as its darkest."""
        low, high = float(np.nanmin(pixels)), float(np.nanmax(pixels))
        slope = (high - low) / _LEVELS or 1.0
        frames = []
        for index, middle in enumerate(middles):
            levels = np.rint(np.nan_to_num((pixels[index] - low) / slope)).astype(np.uint16)
            source = replace(
                self.frames[len(self.frames) // 2].source,
                pixels=levels,
                slope=slope,
                intercept=low,
                spacing=(grid.pixel, grid.pixel),
                orientation=(*_RIGHT, *_DOWN),
                position=(grid.left, grid.top, float(middle)),
            )
            spacing = (grid.pixel, grid.pixel)
            frames.append(OrientedFrame(source, levels, spacing, Plane.AXIAL, float(middle), (_RIGHT, _DOWN)))
        return frames


def _real(item: OrientedFrame, rows: slice = slice(None)) -> FloatArray:
    """The real values of a frame as stored."""
    return np.asarray(item.source.pixels[rows] * np.float32(item.source.slope) + np.float32(item.source.intercept))


def _between(sums: FloatArray, ends: Vector) -> Vector:
    """Sums [m + 1, p, q] of lines up to places between voxels, [planes, p, q] from 0 to m."""
    whole = np.minimum(ends.astype(np.intp), len(sums) - 2)
    places = whole * sums[0].size + np.arange(sums[0].size).reshape(sums[0].shape)
    lower, upper = sums.ravel().take(places), sums.ravel().take(places + sums[0].size)
    return np.asarray(lower + (ends - whole) * (upper - lower))


@dataclass(frozen=True)
class _Grid:
    """The upright grid: `shape`, `pixel` in mm, x and y of its first pixel, `inverse` [2, 2] from mm to lines."""

    shape: tuple[int, int]
    pixel: float
    left: float
    top: float
    inverse: Vector

    @classmethod
    def around(cls, steps: Vector, counts: Sequence[int], shifts: Vector) -> _Grid:
        """`steps` [2, 2] in x and y from line to line along p and q, `shifts` [slabs, 2] where the first line lies."""
        corners = np.array([[p, q] for p in (-0.5, counts[0] - 0.5) for q in (-0.5, counts[1] - 0.5)]) @ steps
        places = np.concatenate([corners + shift for shift in (shifts[0], shifts[-1])])
        low, high = places.min(axis=0), places.max(axis=0)
        finest = float(np.linalg.norm(steps, axis=1).min())
        pixel = max(finest, FINEST_PIXEL_MM, float((high - low).max()) / MAXIMUM_SIDE)
        columns, rows = (max(1, math.ceil(round(side / pixel, 6))) for side in high - low)
        middle = (low + high) / 2
        left, top = middle[0] - (columns - 1) / 2 * pixel, middle[1] - (rows - 1) / 2 * pixel
        return cls((rows, columns), pixel, float(left), float(top), np.asarray(np.linalg.inv(steps), np.float64))

    def fill(self, target: FloatArray, lines: FloatArray, shift: Vector) -> None:
        """Bilinear interpolation of `lines` [p, q], whose first lies at `shift`; NaN beyond them."""
        x = self.left + self.pixel * np.arange(self.shape[1]) - shift[0]
        y = (self.top + self.pixel * np.arange(self.shape[0]) - shift[1])[:, None]
        inside = np.ones(self.shape, np.bool_)
        whole, rest = [], []
        for axis, count in enumerate(lines.shape):
            place = x * self.inverse[0, axis] + y * self.inverse[1, axis]
            inside &= (place >= -0.5) & (place <= count - 0.5)
            place = np.clip(place, 0, count - 1)
            whole.append(np.minimum(place.astype(np.intp), max(count - 2, 0)))
            rest.append((place - whole[-1]).astype(np.float32))
        places, (down, right) = whole[0] * lines.shape[1] + whole[1], rest
        flat, next_p, next_q = lines.ravel(), min(lines.shape[0] - 1, 1) * lines.shape[1], min(lines.shape[1] - 1, 1)
        above, below = (
            (1 - right) * flat.take(places + start) + right * flat.take(places + start + next_q)
            for start in (0, next_p)
        )
        target[:] = np.where(inside, above * (1 - down) + below * down, np.nan)
