"""Frames → an ordered stack, each frame in the orientation of a radiological display.

Canonical display: axial with anterior up and the patient's left on the image's right; coronal with superior up and
left on the right; sagittal with anterior on the left and superior up. An oblique frame is shown in the nearest of the
three planes. Patient coordinates are DICOM's: x to the left, y to posterior, z to the head (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from worker.errors import NotAssessable
from worker.pixels.arrays import FloatArray, PixelArray
from worker.pixels.decode import DecodedFrame

SPACING_TOLERANCE = 0.01  # relative
POSITION_TOLERANCE_MM = 0.01
PARALLEL = 0.95  # cosine between normals: 18 degrees


class Plane(StrEnum):
    SAGITTAL = "sagittal"
    CORONAL = "coronal"
    AXIAL = "axial"


# For each plane, the patient axes along which columns and rows increase; its normal is the axis of its index.
_DISPLAY = {
    Plane.SAGITTAL: (np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])),
    Plane.CORONAL: (np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0])),
    Plane.AXIAL: (np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])),
}


_LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))  # of each axis, where it begins and where it ends
_OBLIQUE = 0.2  # a direction cosine from which an axis is named: 12 degrees

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Edges:
    """What lies beyond each edge of a displayed slice: R, L, A, P, H or F, of an oblique slice several of them.

    The letters and their order are those of Patient Orientation (PS3.3 C.7.6.1.1.1).
    """

    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True)
class OrientedFrame:
    """A frame as displayed: `pixels` [rows, columns] is a view of the stored pixels, with its `spacing`.

    `position_mm` is along the stack normal, towards left, posterior or head; `directions` are the patient's directions
    to the right and down on the display. They and `plane` are None where unknown.
    """

    source: DecodedFrame
    pixels: PixelArray | FloatArray  # floats: see pixels.background
    spacing: tuple[float, float]
    plane: Plane | None
    position_mm: float | None
    directions: tuple[Vector, Vector] | None = None

    @property
    def pitch(self) -> tuple[float, float]:
        """Height and width of a stored pixel in display pixels, which are square and as fine as its finer side."""
        finest = min(self.spacing)
        return self.spacing[0] / finest, self.spacing[1] / finest

    @property
    def edges(self) -> Edges | None:
        """None where the orientation is unknown: no side is ever guessed."""
        if self.directions is None:
            return None
        right, down = self.directions
        return Edges(
            patient_direction(-right), patient_direction(right), patient_direction(-down), patient_direction(down)
        )

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width of the whole frame in display pixels."""
        return self.pixels.shape[0] * self.pitch[0], self.pixels.shape[1] * self.pitch[1]


def patient_direction(vector: Vector) -> str:
    """The letters of a direction in the patient, the nearest axis first."""
    axes = [axis for axis in np.argsort(-np.abs(vector), kind="stable") if abs(vector[axis]) >= _OBLIQUE]
    return "".join(_LETTERS[axis][int(vector[axis] > 0)] for axis in axes)


def stack(frames: Sequence[DecodedFrame]) -> list[OrientedFrame]:
    """Oriented frames, sorted along the normal where every frame has a position, else by instance and frame number.

    Raises NotAssessable: mixed-sizes, mixed-planes, duplicate-positions.
    """
    if not all(frame.orientation for frame in frames):
        ordered = [OrientedFrame(frame, frame.pixels, frame.spacing, None, None) for frame in frames]
    else:
        normal = _common_normal(frames)
        ordered = [_oriented(frame, normal) for frame in frames]
    _check_sizes(ordered)
    if all(frame.position_mm is not None for frame in ordered):
        ordered.sort(key=lambda frame: (frame.position_mm, frame.source.frame_number or 0))
        positions = np.array([frame.position_mm for frame in ordered])
        if len(positions) > 1 and np.diff(positions).min() < POSITION_TOLERANCE_MM:
            raise NotAssessable(
                "duplicate-positions",
                "Several images show the same position, as in a dynamic, diffusion or multi-echo series.",
            )
        return ordered
    return sorted(ordered, key=lambda frame: (frame.source.instance_number, frame.source.frame_number or 0))


def orient(frame: DecodedFrame) -> OrientedFrame:
    """A single frame as displayed."""
    if frame.orientation is None:
        return OrientedFrame(frame, frame.pixels, frame.spacing, None, None)
    return _oriented(frame, _normal(frame))


def _directions(frame: DecodedFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    cosines = np.array(frame.orientation)
    return cosines[:3], cosines[3:]


def _normal(frame: DecodedFrame) -> npt.NDArray[np.float64]:
    """The frame's unit normal, pointing to left, posterior or head, whichever is nearest."""
    normal = np.cross(*_directions(frame))
    normal /= np.linalg.norm(normal)
    return np.asarray(normal if normal[np.abs(normal).argmax()] > 0 else -normal)


def _common_normal(frames: Sequence[DecodedFrame]) -> npt.NDArray[np.float64]:
    """The first frame's normal. Raises NotAssessable when another frame lies in another plane, as in a localizer."""
    normal = _normal(frames[0])
    for frame in frames:
        if float(_normal(frame) @ normal) < PARALLEL:
            raise NotAssessable("mixed-planes", "The images of the series are not parallel, as in a localizer.")
    return normal


def _oriented(frame: DecodedFrame, normal: npt.NDArray[np.float64]) -> OrientedFrame:
    """The frame transposed and flipped to the canonical display of its plane."""
    plane = list(Plane)[int(np.abs(normal).argmax())]
    right, down = _DISPLAY[plane]
    along_row, along_column = _directions(frame)
    pixels, spacing = frame.pixels, frame.spacing
    upright = abs(along_row @ right) + abs(along_column @ down)
    if upright < abs(along_row @ down) + abs(along_column @ right):
        pixels, spacing = pixels.T, (spacing[1], spacing[0])
        along_row, along_column = along_column, along_row
    if along_row @ right < 0:
        pixels, along_row = pixels[:, ::-1], -along_row
    if along_column @ down < 0:
        pixels, along_column = pixels[::-1], -along_column
    position = float(np.array(frame.position) @ normal) if frame.position else None
    return OrientedFrame(frame, pixels, spacing, plane, position, (along_row, along_column))


def _check_sizes(frames: Sequence[OrientedFrame]) -> None:
    first = frames[0]
    for frame in frames:
        if frame.pixels.shape != first.pixels.shape or not np.allclose(
            frame.spacing, first.spacing, rtol=SPACING_TOLERANCE
        ):
            raise NotAssessable("mixed-sizes", "The images of the series differ in size or pixel spacing.")
