"""DICOM files → the input tensors of a model that was trained elsewhere, by MONAI's own transforms.

Axes are MONAI's: x before y before z, as its readers load images. A slice is loaded as it is displayed
(geometry.stack), with its real values (rescale slope and intercept); a volume as its frames are stored, along the
stack's normal, with its affine in MONAI's RAS coordinates. MONAI's transforms keep account of the affine, so a slice's
maps are placed exactly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.data import MetaTensor

from worker.errors import NotAssessable, StartError
from worker.inference.bundle_schema import Input
from worker.inference.preprocess import Volume, frame_of
from worker.inference.transforms.allowed import LARGEST_TENSOR, NOT_RUN, MonaiTransforms
from worker.pixels.arrays import FloatArray
from worker.pixels.decode import decode_series
from worker.pixels.geometry import OrientedFrame, stack
from worker.pixels.windowing import SAMPLED_STEP, usual_range

_LARGEST_GAP = 1.5  # of the usual distance between slices: beyond it a slice is missing
_STRAIGHT = 1e-3  # what an affine may have beside its axes

Affine = FloatArray
Transform = Callable[[Any], Any]


@dataclass(frozen=True)
class TransformedVolume(Volume):
    """A series as MONAI's transforms leave it: `tensor` [slices, channels, x, y], or [1, channels, x, y, z].

    `affines` [4, 4] of the slices' tensors, in pixels of the displayed slice, x before y; none of a volume.
    """

    affines: tuple[Affine, ...] = ()

    def region(self, index: int) -> tuple[float, float, float, float]:
        """What of the slice its tensor covers, in display pixels: top, left, height, width."""
        affine, shape, pitch = self.affines[index], self.tensor.shape[2:], self._slices[index].pitch
        spans = []
        for axis in (1, 0):  # y, then x
            along = _axis_of(affine, axis)
            step, start = float(affine[axis, along]), float(affine[axis, 3])
            ends = start - step / 2, start + step * (shape[along] - 0.5)
            scale = pitch[1 - axis]
            spans.append(((min(ends) + 0.5) * scale, abs(ends[1] - ends[0]) * scale))
        (top, height), (left, width) = spans
        return top, left, height, width

    def upright(self, maps: FloatArray) -> FloatArray:
        """Maps [n, outputs, h, w] over the tensors of slices, turned as the slices are displayed; all alike."""
        affine = self.affines[0] if self.affines else np.eye(4, dtype=np.float32)
        rows = _axis_of(affine, 1)
        turned = maps if rows == 0 else np.swapaxes(maps, 2, 3)
        turned = turned if affine[1, rows] > 0 else turned[:, :, ::-1]
        return np.ascontiguousarray(turned if affine[0, 1 - rows] > 0 else turned[..., ::-1])


class Pipeline:
    """The transforms of a bundle, ready to run. `of_volumes`: on a whole series, otherwise on each slice.

    Raises StartError preprocessing-invalid: arguments that MONAI refuses, and slices with a transform of volumes.
    """

    def __init__(self, definition: MonaiTransforms, of_volumes: bool) -> None:
        if definition.needs_geometry and not of_volumes:
            fault = "has Orientation or Spacing, which are for volumes; slices need Resize"
            raise StartError("preprocessing-invalid", f"The preprocessing {fault}.")
        self._of_volumes = of_volumes
        self._needs_geometry = definition.needs_geometry
        self._pixdim: Any = next(
            (step.arguments["pixdim"] for step in definition.steps if step.name == "Spacing"), None
        )
        self._transforms: list[Transform] = []
        for step in definition.steps:
            if step.name in NOT_RUN:
                continue
            arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in step.arguments.items()}
            try:
                with _quiet():
                    self._transforms.append(getattr(monai.transforms, step.name)(**arguments))
            except (ValueError, TypeError, RuntimeError) as error:
                fault = f"has {step.name} with arguments that MONAI refuses: {error}"
                raise StartError("preprocessing-invalid", f"The preprocessing {fault}") from None

    def __call__(self, paths: Sequence[Path]) -> TransformedVolume:
        """Prepare the files of a series, in any order.

        Raises NotAssessable: the reasons of `decode_series` and `geometry.stack`, and blank-image, image-size,
        no-geometry, incomplete.
        """
        decoded = decode_series(paths)
        slices = stack(decoded)
        tensor, affines = self._volume(slices) if self._of_volumes else self._slices(slices)
        if not np.isfinite(tensor).all():
            raise NotAssessable("blank-image", "The images of the series have no values that the model can use.")
        return TransformedVolume(
            tensor=tensor,
            frames=tuple(frame_of(item) for item in slices),
            modalities=frozenset(frame.modality for frame in decoded),
            rows=decoded[0].pixels.shape[0],
            columns=decoded[0].pixels.shape[1],
            squares=(),
            _slices=tuple(slices),
            _window=usual_range(
                [_values(item, item.pixels[::SAMPLED_STEP, ::SAMPLED_STEP]).ravel() for item in slices]
            ),
            affines=affines,
        )

    def _slices(self, slices: Sequence[OrientedFrame]) -> tuple[FloatArray, tuple[Affine, ...]]:
        made = [self._run(_values(item, item.pixels).T, np.eye(4)) for item in slices]
        if len({tensor.shape for tensor, _ in made}) > 1:
            raise NotAssessable("image-size", "The transforms give slices of several sizes.")
        return np.stack([tensor for tensor, _ in made]), tuple(affine for _, affine in made)

    def _volume(self, slices: Sequence[OrientedFrame]) -> tuple[FloatArray, tuple[Affine, ...]]:
        affine = _affine(slices)
        if affine is None and self._needs_geometry:
            raise NotAssessable("no-geometry", "The images have no position in space, which the model needs.")
        values = np.stack([_values(item, item.source.pixels).T for item in slices], axis=-1)
        if affine is not None and self._pixdim is not None:
            self._check_resampled(values.shape, affine)
        tensor, _ = self._run(values, np.eye(4) if affine is None else affine)
        return tensor[None], ()

    def _check_resampled(self, shape: tuple[int, ...], affine: Affine) -> None:
        """Raises NotAssessable for a volume that Spacing would make too large, before anything is allocated."""
        present = np.linalg.norm(affine[:3, :3], axis=0)
        pixdim = np.resize(np.asarray(self._pixdim, np.float64), 3)
        finest = np.min(pixdim)  # Orientation may exchange the axes
        if math.prod(extent / finest for extent in np.asarray(shape) * present) > 4 * LARGEST_TENSOR:
            raise NotAssessable("image-too-large", "The volume is too large at the model's spacing.")

    def _run(self, values: FloatArray, affine: Any) -> tuple[FloatArray, Affine]:
        """An array of two or three axes → its tensor, channels first, and the tensor's affine."""
        image = MetaTensor(torch.from_numpy(np.ascontiguousarray(values))[None], affine=torch.as_tensor(affine))
        with torch.inference_mode(), _quiet():
            try:
                for transform in self._transforms:
                    image = transform(image)
            except (ValueError, RuntimeError, IndexError):
                # MONAI's text may quote values.
                raise NotAssessable("image-size", "The model's transforms cannot be applied to these images.") from None
            return image.as_tensor().numpy().astype(np.float32), np.asarray(image.affine, np.float32)


def check_shape(volume: Volume, expected: Input) -> None:
    """Raises NotAssessable image-size where tensors are not of the shape that the network reads."""
    if volume.tensor.shape[1:] != expected.shape:
        shown = " x ".join(map(str, volume.tensor.shape[1:])), " x ".join(map(str, expected.shape))
        raise NotAssessable("image-size", f"The images give a tensor of {shown[0]}; the model reads {shown[1]}.")


def _values(item: OrientedFrame, pixels: Any) -> FloatArray:
    return np.asarray(pixels, np.float32) * np.float32(item.source.slope) + np.float32(item.source.intercept)


def _axis_of(affine: Affine, world: int) -> int:
    """Which axis of a tensor runs along x (0) or y (1). Raises NotAssessable where none does."""
    along = int(np.abs(affine[world, :2]).argmax())
    if abs(affine[world, 1 - along]) > _STRAIGHT * abs(affine[world, along]):
        raise NotAssessable("image-size", "The model's transforms turn the images out of their axes.")
    return along


def _affine(slices: Sequence[OrientedFrame]) -> Affine | None:
    """The affine of the volume in RAS millimetres, [4, 4]; None without geometry. Raises NotAssessable incomplete."""
    positions = [item.source.position for item in slices]
    orientation = slices[0].source.orientation
    if orientation is None or any(position is None for position in positions):
        return None
    points = np.array(positions, np.float64)
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if len(gaps) and gaps.max() > _LARGEST_GAP * float(np.median(gaps)):
        raise NotAssessable("incomplete", "Slices of the volume are missing.")
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    step = (points[-1] - points[0]) / (len(points) - 1) if len(points) > 1 else np.cross(along_row, along_column)
    rows, columns = slices[0].source.spacing
    affine = np.eye(4)
    affine[:3, :] = np.stack([along_row * columns, along_column * rows, step, points[0]], axis=1)
    affine[:2] *= -1  # LPS, DICOM's, to RAS
    return affine.astype(np.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of MONAI and torch, which may quote values (architecture, invariant 6)."""
    with warnings.catch_warnings(action="ignore"):
        yield
