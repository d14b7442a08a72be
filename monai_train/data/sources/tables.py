"""Tables that lie among the pictures and say what is known of each: slices.tsv, pictures.tsv, series.csv.

slices.tsv and pictures.tsv name pictures by `path` with `label`, and may have patient_group, contrast, plane, slice,
slices, step_mm, tumour_px, head_px, tumour_box_xywh, diagnosis, picture_cluster, licence. Pictures of a folder with a
number in `slice` are a series, from the skull base to the vertex; `mask/012.png` beside its folder is the mask of its
012.jpg. series.csv names archives of DICOM files by `file` (.tar, .tar.gz, .tar.xz, .tar.bz2) with `expected`, and may
have licence and what.

These tables are final: a picture that they give no label has none, and a picture without a row is rejected.
"""

from __future__ import annotations

import csv
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from monai_train.data.labels import LabelRow, class_name, read_label_file
from monai_train.data.sources.slice_series import SlicePlace
from worker.errors import StartError

PICTURE_TABLES = ("slices.tsv", "pictures.tsv")
ARCHIVE_TABLE = "series.csv"
MAXIMUM_UNPACKED = 8 * 2**30  # bytes of an archive; more is a decompression bomb
HEAD_MM = 150.0  # from the skull base to the vertex: the extent of a series whose step is not known
_SEQUENCES = {"t1": "T1", "t1c": "T1C", "t1ce": "T1C", "t1gd": "T1C", "t2": "T2", "flair": "FLAIR"}
_COPIED = (
    ("tumour_pixels", "tumour_px"), ("head_pixels", "head_px"), ("tumour_box_xywh", "tumour_box_xywh"),
    ("diagnosis", "diagnosis"), ("licence", "licence"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ListedPicture:
    """A picture that a table names: its row, its place in a whole series, the path of its mask."""

    row: LabelRow
    place: SlicePlace | None = None
    mask: str = ""


@dataclass(frozen=True, slots=True)
class SourceTables:
    """The tables of a source folder. All paths are relative to it."""

    listed: Mapping[str, ListedPicture]
    folders: tuple[str, ...]  # of the tables of pictures, "" for the source itself
    files: frozenset[str]  # tables, masks and archives
    unpacked: Mapping[str, Path]  # the files of archives, by `archive/member`

    def covers(self, path: str) -> bool:
        """Whether a picture lies in the folder of a table, and so needs a row."""
        return any(not folder or path.startswith(f"{folder}/") for folder in self.folders)


def read_tables(source: Path, paths: Sequence[str], unpacked: Path | None = None) -> SourceTables:
    """Read the tables among `paths`, and unpack the archives that they name into the folder `unpacked`, if given.

    Raises StartError: a table that cannot be used, two slices of a series with the same number, a damaged archive.
    """
    listed: dict[str, ListedPicture] = {}
    members: dict[str, Path] = {}
    folders: list[str] = []
    files: set[str] = set()
    present = set(paths)
    for path in paths:
        name, folder = PurePosixPath(path).name, PurePosixPath(path).parent.as_posix()
        folder = "" if folder == "." else folder
        if name in PICTURE_TABLES:
            found = _pictures(source, path, folder, present)
            folders.append(folder)
            files |= {path, *(picture.mask for picture in found.values() if picture.mask)}
            listed |= found
        elif name == ARCHIVE_TABLE and unpacked is not None and (rows := _archives(source / path)):
            files.add(path)
            for row in rows:
                archive = _inside(folder, row["file"])
                if archive not in present:
                    raise StartError("archive-unreadable", f"{source / path} names {archive}, which is not there")
                own = _unpack(source / archive, unpacked / str(len(files)), archive)
                files.add(archive)
                members |= own
                listed |= dict.fromkeys(own, ListedPicture(_archive_row(row, data_set(source, folder))))
    return SourceTables(listed, tuple(folders), frozenset(files), members)


def data_set(source: Path, folder: str) -> str:
    """The data set of a table: the first folder below the source, or the source itself."""
    return PurePosixPath(folder).parts[0] if folder else source.resolve().name


def _inside(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


# --- pictures --------------------------------------------------------------------------------------------------


def _pictures(source: Path, table: str, folder: str, present: set[str]) -> dict[str, ListedPicture]:
    rows = read_label_file(source / table).by_path
    highest: dict[PurePosixPath, int] = {}
    for path, row in rows.items():
        folder_of, given = PurePosixPath(path).parent, row.extras.get("slices", "").strip()
        last = max(_number(row), int(given) if given.isdecimal() else 0)
        highest[folder_of] = max(last, highest.get(folder_of, 0))
    found: dict[str, ListedPicture] = {}
    numbered: dict[tuple[PurePosixPath, int], str] = {}
    for path, row in rows.items():
        own, number = PurePosixPath(path), _number(row)
        if number and numbered.setdefault((own.parent, number), path) != path:
            twice = f"{path} and {numbered[own.parent, number]}"
            raise StartError("slices-contradict", f"{source / table}: {twice} have the number {number}")
        mask = _inside(folder, (own.parent.parent / "mask" / own.with_suffix(".png").name).as_posix())
        total = highest[own.parent] if number else 0
        known = _known(row, number, total, data_set(source, folder))
        place = _place(source / folder, own, known, row, number, total) if number else None
        found[_inside(folder, path)] = ListedPicture(known, place, mask if mask in present else "")
    return found


def _number(row: LabelRow) -> int:
    """The number of the slice in its series, 0 for a picture that is of none."""
    text = row.extras.get("slice", "").strip()
    return int(text) if text.isdecimal() else 0


def _known(row: LabelRow, number: int, total: int, dataset: str) -> LabelRow:
    """The row with its columns as the manifest has them."""
    given = row.extras
    contrast = given.get("contrast", "").strip().lower()
    columns = {ours: given.get(theirs, "").strip() for ours, theirs in _COPIED}
    columns |= {
        "dataset": dataset,
        "sequence": _SEQUENCES.get(contrast, "other" if contrast else ""),
        "plane": given.get("plane", "axial").strip(),
        "slice_number": str(number or ""),
        "slice_count": str(total or ""),
        "region": "brain" if columns["tumour_pixels"] not in ("", "0") else "",
    }
    cluster = given.get("picture_cluster", "").strip()
    group = row.patient_group or (f"{dataset}-{cluster}" if cluster else "")
    return replace(row, patient_group=group, extras=columns, final=True)


def _place(root: Path, path: PurePosixPath, known: LabelRow, row: LabelRow, number: int, total: int) -> SlicePlace:
    step = _millimetres(root, row.extras.get("step_mm", "")) or round(HEAD_MM / total, 2)
    patient = f"{root.resolve().name}/{known.patient_group or path.parent.parent}"
    study = path.parent.name.partition("-")[2]
    series = f"{root.resolve().name}/{path.parent}"
    return SlicePlace(patient, f"{patient}/{study}", series, known.extras["sequence"], number, step)


def _millimetres(root: Path, text: str) -> float | None:
    try:
        value = float(text) if text.strip() else None
    except ValueError:
        value = -1.0
    if value is not None and not 0 < value <= 100:
        raise StartError("labels-unreadable", f"a table in {root} has step_mm {text!r}, not millimetres")
    return value


# --- archives --------------------------------------------------------------------------------------------------


def _archives(path: Path) -> list[dict[str, str]]:
    """The rows of a series.csv; none of another table of that name."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, restval="")
            if not {"file", "expected"} <= set(table.fieldnames or ()):
                return []
            return [row for row in table if row["file"]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StartError("labels-unreadable", f"cannot read {path}: {error}") from None


def _archive_row(row: Mapping[str, str], dataset: str) -> LabelRow:
    """`expected` is `classified LABEL`, or how the worker refuses the series, which then shows no head."""
    status, _, label = row["expected"].strip().partition(" ")
    is_head = status == "classified"
    columns = {
        "dataset": dataset,
        "diagnosis": "",
        "region": "" if is_head else "other",
        "licence": row.get("licence", "").strip(),
    }
    return LabelRow(label=class_name(label) if is_head else "", extras=columns, final=True)


def _unpack(archive: Path, folder: Path, name: str) -> dict[str, Path]:
    """Unpack the files of an archive into a new folder; by `archive/member`. Raises StartError."""
    folder.mkdir()
    found: dict[str, Path] = {}
    unpacked = 0
    try:
        with tarfile.open(archive) as tar:
            for number, member in enumerate(tar):
                unpacked += member.size
                if unpacked > MAXIMUM_UNPACKED:
                    raise StartError("archive-too-large", f"{archive} unpacks to more than {MAXIMUM_UNPACKED} bytes")
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None:
                    # No name of the archive reaches the disk.
                    target = folder / str(number)
                    with target.open("wb") as stream:
                        shutil.copyfileobj(content, stream)
                    found[f"{name}/{member.name}"] = target
    except (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise StartError("archive-unreadable", f"cannot unpack {archive}: {error}") from None
    return found
