"""A converted folder for training: its manifest, who is kept apart from whom, and the pixels in one block of memory."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

import worker
from monai_train.config import label_index
from worker.errors import NotAssessable, StartError
from worker.files import open_atomically
from worker.inference.preprocess import Preprocessing, Volume, preprocess

PREPROCESSING_FILE = Path(__file__).with_name("preprocessing.json")
_REQUIRED = ("path", "label", "patient_group", "picture_group", "source_sha256", "rows", "columns")


class SplitRole(StrEnum):
    """What a picture is for. OVERLAP belongs to an external set but shows a patient whom training knows."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    EXTERNAL = "external"
    OVERLAP = "overlap"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One picture of the manifest; `box` is the tumour's x centre, y centre, width, height as fractions, or None.

    `split` is the part that the data set's own authors gave it ("" where they gave none); no split of ours uses it.
    """

    path: str
    label: int
    patient_group: str
    picture_group: str
    dataset: str
    source_sha256: str
    rows: int
    columns: int
    box: tuple[float, float, float, float] | None
    in_conflict: bool
    split: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Pictures:
    """`pixels` uint8 [n, 1, s, s] after preprocessing; `labels` int64 [n]; `boxes` float32 [n, 4], NaN if unknown."""

    rows: tuple[ManifestRow, ...]
    pixels: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor

    def select(self, chosen: Sequence[int]) -> Pictures:
        """The pictures at these positions, in this order."""
        index = torch.tensor(chosen, dtype=torch.long)
        rows = tuple(self.rows[i] for i in chosen)
        return Pictures(rows, self.pixels[index], self.labels[index], self.boxes[index])


def read_preprocessing(path: Path = PREPROCESSING_FILE) -> Preprocessing:
    """The preprocessing definition that training ships (docs/decisions/0002)."""
    return Preprocessing.from_json(json.loads(path.read_text()))


def _box(text: str) -> tuple[float, float, float, float] | None:
    parts = [float(part) for part in text.split()]
    return (parts[0], parts[1], parts[2], parts[3]) if len(parts) == 4 else None


def read_manifest(folder: Path) -> tuple[ManifestRow, ...]:
    """The rows of FOLDER/manifest.csv (or of the manifest that is named), in its order.

    Raises StartError: no manifest, a missing column, an unknown label, no rows.
    """
    path = manifest_path(folder)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            table = list(csv.DictReader(stream))
    except OSError as error:
        raise StartError("no-manifest", f"cannot read {path}: run `monai-train convert` first") from error
    if not table:
        raise StartError("empty-manifest", f"{path} names no picture")
    missing = [name for name in _REQUIRED if name not in table[0]]
    if missing:
        raise StartError("invalid-manifest", f"{path} has no column {missing[0]!r}")
    return tuple(
        ManifestRow(
            path=line["path"],
            label=label_index(line["label"]),
            patient_group=line["patient_group"],
            picture_group=line["picture_group"],
            dataset=line.get("dataset") or PurePosixPath(line.get("source", "")).parts[:1][0],
            source_sha256=line["source_sha256"],
            rows=int(line["rows"]),
            columns=int(line["columns"]),
            box=_box(line.get("tumour_box_xywh") or ""),
            in_conflict=bool(line.get("label_conflict")),
            split=line.get("split") or "",
        )
        for line in table
    )


def manifest_path(folder: Path) -> Path:
    """The manifest of a converted folder, or the manifest itself where that is given."""
    return folder if folder.suffix == ".csv" else folder / "manifest.csv"


def data_sha256(rows: Iterable[ManifestRow]) -> str:
    """Identifies the pictures and their labels, wherever they lie: 64 hex digits."""
    lines = sorted(f"{row.source_sha256} {row.label}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _share(group: str) -> float:
    """A fixed number in [0, 1) for each patient group: the same on every machine and whatever else is in the data."""
    return int(hashlib.sha256(f"split:{group}".encode()).hexdigest()[:8], 16) / 16**8


def split_roles(
    rows: Sequence[ManifestRow], external: Sequence[str], test_share: float, validation_share: float
) -> tuple[SplitRole, ...]:
    """The role of every row. A patient group is never on two sides: its share alone decides."""
    known: set[str] = set()
    roles: list[SplitRole] = []
    for row in rows:
        share = _share(row.patient_group)
        if row.dataset in external:
            roles.append(SplitRole.EXTERNAL)
        elif share < test_share:
            roles.append(SplitRole.TEST)
        else:
            roles.append(SplitRole.VALIDATION if share < test_share + validation_share else SplitRole.TRAIN)
            known.add(row.patient_group)
    return tuple(
        SplitRole.OVERLAP if role is SplitRole.EXTERNAL and row.patient_group in known else role
        for role, row in zip(roles, rows, strict=True)
    )


def split_sha256(rows: Sequence[ManifestRow], roles: Sequence[SplitRole]) -> str:
    """Identifies a split: which source files have which role."""
    lines = sorted(f"{row.source_sha256} {role}" for row, role in zip(rows, roles, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def deduplicate(rows: Sequence[ManifestRow], chosen: Iterable[int]) -> list[int]:
    """The largest copy of every picture without a conflict of labels: what an honest figure counts."""
    best: dict[str, int] = {}
    for i in chosen:
        row = rows[i]
        if row.in_conflict:
            continue
        rank = (-row.rows * row.columns, row.path)
        held = best.get(row.picture_group)
        if held is None or rank < (-rows[held].rows * rows[held].columns, rows[held].path):
            best[row.picture_group] = i
    return sorted(best.values())


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
    """Identifies the preprocessing code, so that pixels made by an older one are not used."""
    folder = Path(worker.__file__).parent
    names = ("pixels/decode.py", "pixels/geometry.py", "inference/resample.py", "inference/preprocess.py")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def load_pictures(
    folder: Path, rows: Sequence[ManifestRow], definition: Preprocessing, cache: Path | None = None
) -> Pictures:
    """Every picture through the worker's preprocessing, kept as one file for the next time.

    That file lies in the folder `cache`, beside the manifest where none is given.

    Raises StartError naming the file when a picture cannot be used.
    """
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
    labels = torch.tensor([row.label for row in rows])
    return Pictures(tuple(rows), torch.from_numpy(pixels), labels, torch.from_numpy(boxes))
