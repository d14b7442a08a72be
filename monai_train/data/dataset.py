"""The pictures of a converted folder through the worker's preprocessing, in one block of memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

import worker
from monai_train.data.labels import Classes
from monai_train.data.manifest import ManifestRow, manifest_path
from worker.errors import NotAssessable, StartError
from worker.files import open_atomically
from worker.inference.preprocess import Preprocessing, Volume, preprocess

PREPROCESSING_FILE = Path(__file__).with_name("preprocessing.json")


@dataclass(frozen=True, eq=False, slots=True)
class Pictures:
    """`pixels` uint8 [n, 1, s, s] after preprocessing; `labels` int64 [n]; `boxes` float32 [n, 4], NaN if unknown.

    A label is an index of `classes`: see `Classes.index`.
    """

    rows: tuple[ManifestRow, ...]
    pixels: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor
    classes: Classes

    def select(self, chosen: Sequence[int]) -> Pictures:
        """The pictures at these positions, in this order."""
        index = torch.tensor(chosen, dtype=torch.long)
        rows = tuple(self.rows[i] for i in chosen)
        return Pictures(rows, self.pixels[index], self.labels[index], self.boxes[index], self.classes)


def read_preprocessing(path: Path = PREPROCESSING_FILE) -> Preprocessing:
    """The preprocessing definition that training and bundles use (docs/decisions/0002)."""
    return Preprocessing.from_json(json.loads(path.read_text()))


def _preprocessed(file: Path, row: ManifestRow, definition: Preprocessing) -> tuple[npt.NDArray[np.uint8], list[float]]:
    """uint8 [1, s, s] and the box on it; NotAssessable from the worker's preprocessing."""
    volume = preprocess([file], definition)
    return (volume.tensor[0] * 255).round().astype(np.uint8), box_on(volume, row)


def box_on(volume: Volume, row: ManifestRow) -> list[float]:
    """The tumour's box on the tensor of a picture: x centre, y centre, width, height as fractions, NaN if unknown."""
    if row.box is None:
        return [float("nan")] * 4
    square = volume.squares[0]
    x, y, width, height = row.box
    return [
        (x * row.columns - square.left) / square.side,
        (y * row.rows - square.top) / square.side,
        width * row.columns / square.side,
        height * row.rows / square.side,
    ]


def _code_sha256() -> str:
    """SHA-256 of the preprocessing code, so that pixels cached by another version are not used."""
    folder = Path(worker.__file__).parent
    names = ("pixels/decode.py", "pixels/geometry.py", "inference/resample.py", "inference/preprocess.py")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def load_pictures(
    folder: Path,
    rows: Sequence[ManifestRow],
    definition: Preprocessing,
    cache: Path | None = None,
    classes: Classes | None = None,
) -> Pictures:
    """Preprocess every picture as the worker does; the result is cached in one file.

    The file is in the folder `cache`, by default beside the manifest. The classes are by default those of the rows.

    Raises StartError with the path of a picture that cannot be used.
    """
    classes = classes or Classes.of(row.label for row in rows)
    root = manifest_path(folder).parent
    inputs = [definition.to_json(), _code_sha256(), [(row.path, row.source_sha256, row.box) for row in rows]]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    stored = (cache or root) / f"cache-{key[:16]}.npz"
    if not stored.exists():
        size = definition.size
        pixels = np.empty((len(rows), 1, size, size), np.uint8)
        boxes = np.empty((len(rows), 4), np.float32)
        for i, row in enumerate(track(rows, description="preprocessing")):
            try:
                pixels[i], boxes[i] = _preprocessed(root / row.path, row, definition)
            except NotAssessable as error:
                raise StartError(error.reason, f"{row.path}: {error.detail}") from error
        with open_atomically(stored) as stream:
            np.savez(stream, pixels=pixels, boxes=boxes)
    with np.load(stored) as arrays:
        pixels, boxes = arrays["pixels"], arrays["boxes"]
    labels = torch.tensor([classes.index(row.label) for row in rows], dtype=torch.long)
    return Pictures(tuple(rows), torch.from_numpy(pixels), labels, torch.from_numpy(boxes), classes)
