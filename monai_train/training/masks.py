"""The tumours' masks of a converted folder, on the tensors of their pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from monai_train.data.dataset import preprocess_together, preprocessing_sha256, series_files, series_of
from monai_train.data.manifest import ManifestRow, manifest_path
from worker.errors import NotAssessable, StartError
from worker.files import open_atomically
from worker.inference.preprocess import Preprocessing, Square
from worker.inference.resample import axis_weights, coverage, resample
from worker.pixels.arrays import ByteArray

_LEAST_PIXELS = 100  # of the picture: a smaller tumour is not worth pasting


@dataclass(frozen=True, eq=False, slots=True)
class Masks:
    """`index` int64 [m] into the pictures; `pixels` uint8 [m, 1, s, s], 255 on the tumour."""

    index: torch.Tensor
    pixels: torch.Tensor

    @classmethod
    def none(cls, size: int) -> Masks:
        """No masks."""
        return cls(torch.empty(0, dtype=torch.long), torch.empty((0, 1, size, size), dtype=torch.uint8))

    def select(self, chosen: Sequence[int]) -> Masks:
        """The masks of the pictures at these positions, for `Pictures.select` of the same."""
        place = {position: new for new, position in enumerate(chosen)}
        kept = [k for k, position in enumerate(self.index.tolist()) if position in place]
        index = torch.tensor([place[position] for position in self.index[kept].tolist()], dtype=torch.long)
        return Masks(index, self.pixels[kept])


def load_masks(folder: Path, rows: Sequence[ManifestRow], definition: Preprocessing) -> Masks:
    """The masks of the rows that have any, cropped as the worker crops their pictures; cached beside the manifest.

    Raises StartError for a mask that cannot be read or has other rows and columns than its picture.
    """
    root = manifest_path(folder).parent
    masked = [i for i, row in enumerate(rows) if row.mask and (row.tumour_pixels or _LEAST_PIXELS) >= _LEAST_PIXELS]
    if not masked:
        return Masks.none(definition.size)
    inputs = [definition.to_json(), preprocessing_sha256(), [(rows[i].source_sha256, rows[i].mask) for i in masked]]
    stored = root / f"masks-{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]}.npz"
    if not stored.exists():
        squares = _squares(folder, rows, masked, definition)
        pixels = np.stack([_on_tensor(root / rows[i].mask, rows[i], squares[i], definition.size) for i in masked])
        with open_atomically(stored) as stream:
            np.savez_compressed(stream, pixels=pixels)
    with np.load(stored) as arrays:
        return Masks(torch.tensor(masked), torch.from_numpy(arrays["pixels"])[:, None])


def _squares(
    folder: Path, rows: Sequence[ManifestRow], masked: Sequence[int], definition: Preprocessing
) -> dict[int, Square]:
    """The square of each of these pictures, which depends on its whole series."""
    chosen = [rows[i] for i in masked]
    files = series_files(folder, chosen)
    squares: dict[int, Square] = {}
    for own in series_of(chosen):
        together = [chosen[k] for k in own]
        try:
            volume, slices = preprocess_together(manifest_path(folder).parent, together, files, definition)
        except NotAssessable as error:
            raise StartError(error.reason, f"{together[0].path}: {error.detail}") from error
        squares |= {masked[k]: volume.squares[index] for k, index in zip(own, slices, strict=True)}
    return squares


def _on_tensor(path: Path, row: ManifestRow, square: Square, size: int) -> ByteArray:
    """The mask [s, s] where the tensor has the picture: 255 on the tumour."""
    try:
        with Image.open(path) as image:
            mask = np.asarray(image.convert("L")) > 0
    except OSError as error:
        raise StartError("unreadable-mask", f"cannot read the mask {row.mask}: {error}") from error
    if mask.shape != (row.rows, row.columns):
        raise StartError("unreadable-mask", f"the mask {row.mask} is not of the size of its picture")
    step = square.side / size
    rows = axis_weights(mask.shape[0], 1.0, square.top, step, size)
    columns = axis_weights(mask.shape[1], 1.0, square.left, step, size)
    inside = resample(mask.astype(np.float32), rows, columns) * coverage(rows, columns)
    return np.where(inside > 0.5, np.uint8(255), np.uint8(0))
