"""The inventory of a folder: its images with their labels and groups, and the files that are no images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from monai_train.data.images import MAXIMUM_PIXELS, UnreadableImage, find_files, is_dicom_file, is_picture_name
from monai_train.data.labels import LabelFile, LabelRow, folder_label
from monai_train.data.manifest import GROUP_COLUMNS, read_lines
from monai_train.data.patients import DEFAULT_SALT
from monai_train.data.sources.slice_series import SlicePlace
from monai_train.data.sources.tables import SourceTables, read_tables
from worker.errors import StartError


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image and its label. `row` is the merged rows of the files that name it, None without any.

    `place` is that of a picture in a whole series, `mask` the path of its tumour's mask relative to the source folder.
    """

    source: str  # relative to the source folder; of an archive's file, `archive/member`
    is_dicom: bool
    label: str
    split: str
    folder_label: str
    row: LabelRow | None
    patient: str  # salted hash of the DICOM patient, "" for a picture
    file: Path
    series: str = ""  # Series Instance UID of a DICOM image
    place: SlicePlace | None = None
    mask: str = ""

    @property
    def is_known(self) -> bool:
        """Whether it has a label, or a table says that it has none."""
        return bool(self.label) or (self.row is not None and self.row.final)

    @property
    def is_of_archive(self) -> bool:
        """Whether it comes from an archive of a table, whose series were made without contrast agent."""
        return self.is_dicom and self.row is not None and self.row.final

    @property
    def patient_group(self) -> str:
        """The user's group, otherwise the DICOM patient, otherwise ""."""
        return (self.row.patient_group if self.row else "") or self.patient

    @property
    def picture_group(self) -> str:
        """The user's picture group, otherwise ""."""
        return self.row.picture_group if self.row else ""


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file that was not accepted, and the reason."""

    source: str
    reason: str
    detail: str


@dataclass(slots=True)
class Inventory:
    """The images of a folder in the order of their paths, and the rejected files."""

    images: list[SourceImage] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)


def count_reasons(rejected: Iterable[RejectedFile]) -> str:
    """`3 no-label, 1 empty-file`."""
    counts = Counter(file.reason for file in rejected)
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common()) or "none found"


def take_inventory(
    source: Path,
    files: Sequence[LabelFile] = (),
    salt: str = DEFAULT_SALT,
    exclude: Path | None = None,
    unpacked: Path | None = None,
) -> Inventory:
    """List every image under `source` with its label: from the first file that names it, otherwise its class folder.

    Tables among the images (sources.tables) come after `files`; the archives that they name are unpacked into the
    folder `unpacked`, if given. DICOM takes no label from folders, which are named after series and patients. Raises
    StartError: no folder, no files, a table that cannot be used, or label files that name none of the images.
    """
    if not source.is_dir():
        raise StartError("no-source", f"{source} is not a folder")
    paths = list(find_files(source, exclude))
    if not paths:
        raise StartError("empty-source", f"{source} holds no files")
    inventory = Inventory()
    tables = read_tables(source, paths, unpacked)
    located = {path: source / path for path in paths if path not in tables.files} | dict(tables.unpacked)
    usable = {path: kind for path, file in located.items() if (kind := _kind(path, file, tables, inventory))}
    matches = [file.match(list(usable), source) for file in files]
    matched = False
    for path, kind in usable.items():
        try:
            uids, patient = _identity(located[path], salt) if kind == "dicom" else ((), "")
        except UnreadableImage as error:
            inventory.rejected.append(RejectedFile(path, error.reason, error.detail))
            continue
        listed = tables.listed.get(path)
        rows = [match[path] for match in matches if path in match]
        rows += [file.by_uid[uid] for file in files for uid in uids if uid in file.by_uid]
        row = _merge([*rows, listed.row] if listed else rows)
        label, split = folder_label(path, source)
        if kind == "dicom" or listed:
            label = ""
        given = row or LabelRow()
        image = SourceImage(
            path,
            kind == "dicom",
            given.label or label,
            given.split or split,
            label,
            row,
            patient,
            located[path],
            uids[1] if uids else "",
        )
        inventory.images.append(replace(image, place=listed.place, mask=listed.mask) if listed else image)
        matched = matched or bool(rows)
    if files and inventory.images and not matched:
        raise StartError("no-row-matches", f"no row of the file of labels or groups names an image under {source}")
    return inventory


def list_converted(folder: Path) -> Inventory:
    """List the images of a folder that `convert` wrote, of any class. Raises StartError for an invalid manifest."""
    return Inventory(
        [
            SourceImage(
                line.values["path"],
                True,
                line.values["label"],
                line.values.get("split", ""),
                "",
                LabelRow(patient_group=line.values["patient_group"], picture_group=line.values["picture_group"]),
                "",
                folder / line.values["path"],
            )
            for line in read_lines(folder, ("path", "label", *GROUP_COLUMNS))
        ]
    )


def _kind(path: str, file: Path, tables: SourceTables, inventory: Inventory) -> str:
    """`dicom` or `picture`, or "" for a file that is rejected."""
    if any("\ud800" <= character <= "\udfff" for character in path):
        inventory.rejected.append(RejectedFile(path, "bad-file-name", "the file's name is not Unicode"))
        return ""
    if is_dicom_file(file):
        return "dicom"
    if is_picture_name(path) and (path in tables.listed or not tables.covers(path)):
        return "picture"
    if is_picture_name(path):
        inventory.rejected.append(RejectedFile(path, "no-row", "the table of its folder has no row for it"))
        return ""
    inventory.rejected.append(RejectedFile(path, "not-an-image", "neither PNG, JPEG nor DICOM"))
    return ""


def _merge(rows: Sequence[LabelRow]) -> LabelRow | None:
    """Merge rows: of each column, the first value that is not empty."""
    if not rows:
        return None
    extras: dict[str, str] = {}
    for row in rows:
        for column, value in row.extras.items():
            extras[column] = extras.get(column) or value
    merged = {
        name: next((text for row in rows if (text := getattr(row, name))), "")
        for name in ("label", "split", "patient_group", "picture_group")
    }
    return LabelRow(**merged, extras=extras, final=any(row.final for row in rows))


def _identity(path: Path, salt: str) -> tuple[tuple[str, ...], str]:
    """((SOP instance, series instance UID), salted hash of the patient) of a DICOM image.

    Without a PatientID, the study identifies the patient. Raises UnreadableImage.
    """
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        size = int(ds.get("Rows") or 0) * int(ds.get("Columns") or 0)
        uids = (str(ds.get("SOPInstanceUID", "")), str(ds.get("SeriesInstanceUID", "")))
        patient = str(ds.get("PatientID") or "").strip() or str(ds.get("StudyInstanceUID", ""))
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError, EOFError) as error:
        raise UnreadableImage("not-decodable", f"broken DICOM ({type(error).__name__})") from None
    if size == 0:
        raise UnreadableImage("no-pixels", "a DICOM object without an image")
    if size > MAXIMUM_PIXELS:
        raise UnreadableImage("too-large", f"more than {MAXIMUM_PIXELS} pixels")
    return uids, "patient-" + hashlib.sha256(f"{salt}\x1f{patient}".encode()).hexdigest()[:16] if patient else ""
