"""The pictures of a converted folder through the worker's preprocessing, in one block of memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

import worker
from monai_train.data.labels import Classes
from monai_train.data.manifest import ManifestRow, manifest_path, read_manifest
from monai_train.data.sources.stacks import PREPROCESSING_FILE as PREPROCESSING_FILE
from monai_train.data.sources.stacks import as_stored
from monai_train.data.sources.stacks import read_preprocessing as read_preprocessing
from worker.errors import NotAssessable, StartError
from worker.files import open_atomically
from worker.inference.preprocess import Preprocessing, Volume, preprocess


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


def series_of(rows: Sequence[ManifestRow]) -> list[list[int]]:
    """The positions of the rows that are preprocessed together: those of a series, or a picture on its own."""
    members: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(f"series {row.series}" if row.series else f"picture {index}", []).append(index)
    return list(members.values())


def series_files(folder: Path, rows: Sequence[ManifestRow]) -> dict[str, list[str]]:
    """The paths of all slices of the series that these rows are slices of, whichever were chosen."""
    needed = sorted({row.series for row in rows if row.series})
    found: dict[str, list[str]] = {series: [] for series in needed}
    for row in read_manifest(folder) if needed else ():
        if row.series in found:
            found[row.series].append(row.path)
    return found


def preprocess_together(
    root: Path, rows: Sequence[ManifestRow], paths: Mapping[str, Sequence[str]], definition: Preprocessing
) -> tuple[Volume, list[int]]:
    """The volume of a picture or of a series, and the slice of each row: of several frames of a file, the middle frame.

    `paths` are those of `series_files`. A 3-D series is not reformatted: labels are of the slices as they are stored.
    Raises NotAssessable from the worker's preprocessing; StartError for a file that cannot be read.
    """
    own = [root / row.path for row in rows]
    try:
        volume = preprocess(
            list(dict.fromkeys([*(root / path for path in paths.get(rows[0].series, ())), *own])),
            as_stored(definition),
        )
    except OSError as error:
        raise StartError("unreadable-data", f"cannot read {error.filename}: {error.strerror}") from error
    slices: dict[Path, list[int]] = {}
    for index, frame in enumerate(volume.frames):
        slices.setdefault(frame.path, []).append(index)
    return volume, [slices[file][len(slices[file]) // 2] for file in own]


def box_on(volume: Volume, index: int, row: ManifestRow) -> list[float]:
    """The tumour's box on the tensor of a slice: x centre, y centre, width, height as fractions, NaN if unknown."""
    if row.box is None:
        return [float("nan")] * 4
    square = volume.squares[index]
    x, y, width, height = row.box
    return [
        (x * row.columns - square.left) / square.side,
        (y * row.rows - square.top) / square.side,
        width * row.columns / square.side,
        height * row.rows / square.side,
    ]


def preprocessing_sha256() -> str:
    """SHA-256 of the preprocessing code, so that pixels cached by another version are not used."""
    folder = Path(worker.__file__).parent
    names = ("pixels/decode", "pixels/geometry", "pixels/background", "inference/resample", "inference/preprocess")
    return hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in names)).hexdigest()


def load_pictures(
    folder: Path,
    rows: Sequence[ManifestRow],
    definition: Preprocessing,
    cache: Path | None = None,
    classes: Classes | None = None,
) -> Pictures:
    """Preprocess every picture as the worker does, the slices of a series together; the result is cached in one file.

    The file is in the folder `cache`, by default beside the manifest. The classes are by default those of the rows.

    Raises StartError with the path of a picture that cannot be used.
    """
    classes = classes or Classes.of(row.label for row in rows)
    root = manifest_path(folder).parent
    files = series_files(folder, rows)
    identity = [(row.path, row.source_sha256, row.box, row.series) for row in rows]
    inputs = [as_stored(definition).to_json(), preprocessing_sha256(), identity, files]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    stored = (cache or root) / f"cache-{key[:16]}.npz"
    if not stored.exists():
        size = definition.size
        pixels = np.empty((len(rows), 1, size, size), np.uint8)
        boxes = np.empty((len(rows), 4), np.float32)
        for members in track(series_of(rows), description="preprocessing"):
            own = [rows[i] for i in members]
            try:
                volume, slices = preprocess_together(root, own, files, definition)
            except NotAssessable as error:
                raise StartError(error.reason, f"{own[0].path}: {error.detail}") from error
            pixels[members] = (volume.tensor[slices] * 255).round().astype(np.uint8)
            boxes[members] = [box_on(volume, k, row) for k, row in zip(slices, own, strict=True)]
        with open_atomically(stored) as stream:
            np.savez(stream, pixels=pixels, boxes=boxes)
    with np.load(stored) as arrays:
        pixels, boxes = arrays["pixels"], arrays["boxes"]
    labels = torch.tensor([classes.index(row.label) for row in rows], dtype=torch.long)
    return Pictures(tuple(rows), torch.from_numpy(pixels), labels, torch.from_numpy(boxes), classes)
