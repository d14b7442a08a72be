"""manifest.csv of a converted folder: its pictures with their labels and groups.

`convert` writes it; it may also be written by hand. Required are the columns of REQUIRED_COLUMNS; all others may be
missing or empty. `dataset` defaults to the first folder of `source` unless that is the class, else to the converted
folder's name. A picture may have no label: a slice at the edge of a tumour, or of another part of the body. It is in no
figure of classes.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from monai_train.data.labels import class_name
from worker.errors import StartError
from worker.files import write_atomically

GROUP_COLUMNS = ("patient_group", "picture_group")
SERIES_COLUMNS = (
    "sequence", "slice_number", "slice_count", "tumour_pixels", "head_pixels", "mask", "diagnosis", "series", "region",
    "plane", "licence",
)  # fmt: skip
SEQUENCES = ("T1", "T1C", "T2", "FLAIR", "other")
REGIONS = ("brain", "head", "other")
PLANES = ("axial", "coronal", "sagittal")
MANIFEST_COLUMNS = (
    "path", "label", "split", *GROUP_COLUMNS, "source", "source_sha256", "rows", "columns", *SERIES_COLUMNS,
)  # fmt: skip
REQUIRED_COLUMNS = ("path", "label", *GROUP_COLUMNS, "source_sha256", "rows", "columns")
_NEVER_EMPTY = ("path", *GROUP_COLUMNS)  # an empty group would join every picture that has none


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A picture of the manifest; `box` is the tumour's x centre, y centre, width, height as fractions, or None.

    `label` is the name of a class, "tumor" for a lesion of unknown kind, "" for none: see `labels.Classes`. `split` is
    the part by the authors of the data set ("" if they published none); no split of ours uses it. `sequence`, `region`
    and `plane` are of SEQUENCES, REGIONS and PLANES or "". Slices of a `series` are numbered from 1, from its first
    slice to the last of `slice_count`; None is unknown. `mask` is the path of the tumour's mask beside the manifest.
    """

    path: str
    label: str
    patient_group: str
    picture_group: str
    dataset: str
    source_sha256: str
    rows: int
    columns: int
    box: tuple[float, float, float, float] | None
    in_conflict: bool
    split: str = ""
    sequence: str = ""
    slice_number: int | None = None
    slice_count: int | None = None
    tumour_pixels: int | None = None
    head_pixels: int | None = None
    mask: str = ""
    diagnosis: str = ""
    series: str = ""
    region: str = ""
    plane: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class ManifestLine:
    """The text of a line by column; `where` names file and line for an error."""

    where: str
    values: Mapping[str, str]

    def integer(self, column: str) -> int:
        """A whole number above 0. Raises StartError."""
        text = self.values[column]
        if not text.isdecimal() or int(text) < 1:
            raise StartError("invalid-manifest", f"{self.where}: {column} is {text!r}, not a whole number above 0")
        return int(text)

    def count(self, column: str) -> int | None:
        """A whole number from 0 on, None where the column is missing or empty. Raises StartError."""
        text = self.values.get(column, "")
        if text and not text.isdecimal():
            raise StartError("invalid-manifest", f"{self.where}: {column} is {text!r}, not a whole number")
        return int(text) if text else None

    def slices(self) -> tuple[int | None, int | None]:
        """The number of the slice and how many the series has. Raises StartError for a number beyond that."""
        number, total = self.count("slice_number"), self.count("slice_count")
        if number is not None and total is not None and not 1 <= number <= total:
            raise StartError("invalid-manifest", f"{self.where}: slice_number {number} is not within 1 and {total}")
        return number, total

    def chosen(self, column: str, values: Sequence[str]) -> str:
        """One of the values, or "". Raises StartError for any other."""
        text = self.values.get(column, "")
        if text and text not in values:
            raise StartError("invalid-manifest", f"{self.where}: {column} is {text!r}, none of {', '.join(values)}")
        return text

    def box(self) -> tuple[float, float, float, float] | None:
        """The tumour's box, None unless there are four numbers. Raises StartError for a value that is not a number."""
        text = self.values.get("tumour_box_xywh", "")
        try:
            numbers = [float(number) for number in text.split()]
        except ValueError:
            raise StartError(
                "invalid-manifest", f"{self.where}: tumour_box_xywh is {text!r}, not four numbers"
            ) from None
        return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None

    def dataset(self, default: str) -> str:
        """Its column, otherwise the first folder of `source` unless that is the class, otherwise the default."""
        folders = PurePosixPath(self.values.get("source", "")).parts[:-1]
        by_class = not folders or class_name(folders[0]) == class_name(self.values["label"])
        return self.values.get("dataset") or (default if by_class else folders[0])


def manifest_path(folder: Path) -> Path:
    """The manifest of a converted folder, or the path itself if it is a manifest."""
    return folder if folder.suffix == ".csv" else folder / "manifest.csv"


def folder_name(folder: Path) -> str:
    """The name of a converted folder, for the titles of reports."""
    return manifest_path(folder).resolve().parent.name


def read_lines(folder: Path, required: Sequence[str] = REQUIRED_COLUMNS) -> list[ManifestLine]:
    """Read the lines of FOLDER/manifest.csv (or of the manifest itself), in order.

    Raises StartError: no manifest, not a table, a missing column, no lines, a line with too many values or with an
    empty path or group.
    """
    path = manifest_path(folder)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream, restval="")
            lines = [ManifestLine(f"{path}, line {table.line_num}", values) for values in table]
            columns = table.fieldnames or ()
    except OSError as error:
        raise StartError("no-manifest", f"cannot read {path}: run `monai-train convert` first") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise StartError("invalid-manifest", f"{path} is not a CSV table in UTF-8: {error}") from error
    if not lines:
        raise StartError("empty-manifest", f"{path} names no picture")
    for column in required:
        if column not in columns:
            raise StartError("invalid-manifest", f"{path} has no column {column!r}")
    for line in lines:
        if None in line.values:  # where csv puts what has no column
            raise StartError("invalid-manifest", f"{line.where} has more values than the header has columns")
        for column in _NEVER_EMPTY:
            if column in required and not line.values[column]:
                raise StartError("invalid-manifest", f"{line.where}: {column} is empty")
    return lines


def read_manifest(folder: Path) -> tuple[ManifestRow, ...]:
    """Read the rows of FOLDER/manifest.csv (or of the manifest itself), in order.

    Raises StartError as `read_lines` does, and for a value that is not a number or not of its column, with its line.
    """
    default = manifest_path(folder).resolve().parent.name
    return tuple(_row(line, default) for line in read_lines(folder))


def _row(line: ManifestLine, default_dataset: str) -> ManifestRow:
    number, total = line.slices()
    return ManifestRow(
        path=line.values["path"],
        label=class_name(line.values["label"]),
        patient_group=line.values["patient_group"],
        picture_group=line.values["picture_group"],
        dataset=line.dataset(default_dataset),
        source_sha256=line.values["source_sha256"],
        rows=line.integer("rows"),
        columns=line.integer("columns"),
        box=line.box(),
        in_conflict=bool(line.values.get("label_conflict")),
        split=line.values.get("split", ""),
        sequence=line.chosen("sequence", SEQUENCES),
        slice_number=number,
        slice_count=total,
        tumour_pixels=line.count("tumour_pixels"),
        head_pixels=line.count("head_pixels"),
        mask=line.values.get("mask", ""),
        diagnosis=line.values.get("diagnosis", ""),
        series=line.values.get("series", ""),
        region=line.chosen("region", REGIONS),
        plane=line.chosen("plane", PLANES),
        licence=line.values.get("licence", ""),
    )


def data_sha256(rows: Iterable[ManifestRow]) -> str:
    """SHA-256 that identifies the pictures and their labels, wherever they are stored."""
    lines = sorted(f"{row.source_sha256} {row.label}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def deduplicate(rows: Sequence[ManifestRow], chosen: Iterable[int]) -> list[int]:
    """The largest copy of every chosen picture with a label that nothing contradicts: what figures are based on."""
    best: dict[str, int] = {}
    for i in chosen:
        row = rows[i]
        if row.in_conflict or not row.label:
            continue
        rank = (-row.rows * row.columns, row.path)
        other = best.get(row.picture_group)
        if other is None or rank < (-rows[other].rows * rows[other].columns, rows[other].path):
            best[row.picture_group] = i
    return sorted(best.values())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write the whole table or nothing. Raises OSError."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, table.getvalue().encode("utf-8", "backslashreplace"))
