"""`monai-train convert`: pictures in class folders, or DICOM with a table of labels, to DICOM and a manifest.

OUT/images/…        one DICOM file an image, named by a hash
OUT/manifest.csv    what each shows and to whom it belongs; written last, so a manifest never names a missing file
OUT/rejected.csv    what could not be taken, with the reason
OUT/conflicts.csv   labels that contradict each other

The same source gives the same bytes, so a run that was interrupted is simply run again.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pydicom
import typer
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.table import Table

from monai_train.grouping import name_groups
from monai_train.images import (
    MAXIMUM_PIXELS,
    UnreadableImage,
    find_files,
    is_dicom_file,
    is_picture_name,
    read_dicom_frame,
    read_picture,
)
from monai_train.labels import LabelFile, LabelRow, are_in_conflict, folder_label, read_label_file
from monai_train.pool import map_files
from monai_train.secondary_capture import secondary_capture
from worker.errors import StartError

MANIFEST_COLUMNS = (
    "path",
    "label",
    "split",
    "patient_group",
    "picture_group",
    "source",
    "source_sha256",
    "rows",
    "columns",
)
DEFAULT_SALT = "monai-train"


@dataclass(frozen=True, slots=True)
class Job:
    """One image to take: where it is and what is said of it."""

    source: str  # relative to the source folder
    is_dicom: bool
    label: str
    split: str
    folder_label: str
    row: LabelRow
    patient: str  # salted hash of the DICOM patient, "" for a picture


@dataclass(frozen=True, slots=True)
class Converted:
    """One image taken: its DICOM file relative to the output folder, and the hashes of file and pixels."""

    job: Job
    path: str
    source_sha256: str
    pixel_sha256: str
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """One file not taken, and why."""

    source: str
    reason: str
    detail: str


@dataclass(slots=True)
class Conversion:
    """What a run did; `manifest` rows have MANIFEST_COLUMNS and the columns of the user's files."""

    manifest: list[dict[str, str]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    without_row: int = 0  # images which the groups file does not name
    joined_groups: int = 0  # groups of the file that are one, because they share a picture


def convert(
    source: Path, out: Path, groups: Path | None = None, labels: Path | None = None, salt: str = DEFAULT_SALT
) -> Conversion:
    """Convert every image under `source`; the module says what lies in `out` afterwards.

    Raises StartError: nothing to convert, a file of labels that cannot be used, a folder that cannot be written.
    """
    if not source.is_dir():
        raise StartError("no-source", f"{source} is not a folder")
    if out.resolve() == source.resolve():
        raise StartError("same-folder", "OUT must not be SRC")
    files = [read_label_file(path) for path in (labels, groups) if path is not None]
    paths = list(find_files(source, leave_out=out.resolve()))
    if not paths:
        raise StartError("empty-source", f"{source} holds no files")
    done = Conversion()
    jobs = list(_plan(source, paths, files, salt, done))
    if not jobs:
        raise StartError("no-images", f"{source} holds no image that can be taken: {_reasons(done.rejected)}")
    done.without_row = sum(job.row.extras is None for job in jobs) if files else 0
    try:
        _prepare(out)
        outcomes = list(map_files(partial(convert_one, source=source, out=out), jobs, "convert"))
        converted = [o for o in outcomes if isinstance(o, Converted)]
        done.rejected += [o for o in outcomes if isinstance(o, Rejected)]
        done.rejected.sort(key=lambda r: r.source)
        extras = tuple(dict.fromkeys(c for file in files for c in file.extra_columns))
        _describe(converted, extras, done)
        _write_csv(
            out / "rejected.csv",
            ("source", "reason", "detail"),
            ({"source": r.source, "reason": r.reason, "detail": r.detail} for r in done.rejected),
        )
        _write_csv(out / "conflicts.csv", _CONFLICT_COLUMNS, done.conflicts)
        if not converted:
            raise StartError("no-images", f"no image could be read: {_reasons(done.rejected)}; see rejected.csv")
        _write_csv(out / "manifest.csv", MANIFEST_COLUMNS + extras, done.manifest)
    except OSError as error:
        raise StartError("output-not-writable", f"cannot write to {out}: {error.strerror}") from None
    except BrokenProcessPool:
        raise StartError("process-died", "a converting process was killed, perhaps for lack of memory") from None
    return done


def _prepare(out: Path) -> None:
    """Make the folder and take away the manifest of an earlier run, which would name files this run replaces."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "manifest.csv").unlink(missing_ok=True)


def _reasons(rejected: Iterable[Rejected]) -> str:
    counts = Counter(r.reason for r in rejected)
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common()) or "none found"


def _plan(source: Path, paths: Sequence[str], files: Sequence[LabelFile], salt: str, done: Conversion) -> Iterator[Job]:
    """A job an image; a rejection for every file that is none, or of which nobody says what it shows."""
    usable: list[tuple[str, bool]] = []
    for path in paths:
        if any("\ud800" <= character <= "\udfff" for character in path):
            done.rejected.append(Rejected(path, "bad-file-name", "the file's name is not Unicode"))
        elif is_dicom_file(source / path):
            usable.append((path, True))
        elif is_picture_name(path):
            usable.append((path, False))
        else:
            done.rejected.append(Rejected(path, "not-an-image", "neither PNG, JPEG nor DICOM"))
    matches = [file.match([path for path, _ in usable], source) for file in files]
    for path, is_dicom in usable:
        rows = [match[path] for match in matches if path in match]
        patient = ""
        if is_dicom:
            try:
                uids, patient = _identity(source / path, salt)
            except UnreadableImage as refusal:
                done.rejected.append(Rejected(path, refusal.reason, refusal.detail))
                continue
            rows += [file.by_uid[uid] for file in files for uid in uids if uid in file.by_uid]
        row = _merge(rows)
        by_folder, split = folder_label(path, source)
        if is_dicom:
            by_folder = ""  # folders of DICOM are named after series and patients, not classes
        if not (row.label or by_folder):
            why = "a DICOM file needs a row in --labels" if is_dicom else "no class folder and no row names its class"
            done.rejected.append(Rejected(path, "no-label", why))
            continue
        yield Job(path, is_dicom, row.label or by_folder, row.split or split, by_folder, row, patient)
    named = sum(map(len, matches))
    if files and any(file.by_path for file in files) and usable and not named:
        raise StartError("no-path-matches", "no path of the groups file names an image under SRC")


def _merge(rows: Sequence[LabelRow]) -> LabelRow:
    """One row from several: the first that says something counts; `extras` None where there is no row at all."""
    if not rows:
        return LabelRow()
    extras: dict[str, str] = {}
    for row in rows:
        for column, value in (row.extras or {}).items():
            extras[column] = extras.get(column) or value
    said = {
        name: next((text for row in rows if (text := getattr(row, name))), "")
        for name in ("label", "split", "patient_group", "picture_group")
    }
    return LabelRow(**said, extras=extras)


def _identity(path: Path, salt: str) -> tuple[tuple[str, str], str]:
    """((SOP instance, series instance UID), salted hash of the patient) of a DICOM image.

    Without a PatientID the study stands for the patient. Raises UnreadableImage.
    """
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        size = int(ds.get("Rows") or 0) * int(ds.get("Columns") or 0)
        uids = (str(ds.get("SOPInstanceUID", "")), str(ds.get("SeriesInstanceUID", "")))
        who = str(ds.get("PatientID") or "").strip() or str(ds.get("StudyInstanceUID", ""))
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError, EOFError) as error:
        raise UnreadableImage("not-decodable", f"broken DICOM ({type(error).__name__})") from None
    if size == 0:
        raise UnreadableImage("no-pixels", "a DICOM object without an image")
    if size > MAXIMUM_PIXELS:
        raise UnreadableImage("too-large", f"more than {MAXIMUM_PIXELS} pixels")
    return uids, "patient-" + hashlib.sha256(f"{salt}\x1f{who}".encode()).hexdigest()[:16] if who else ""


def convert_one(job: Job, source: Path, out: Path) -> Converted | Rejected:
    """Take one image. Raises OSError where the output cannot be written."""
    path = source / job.source
    try:
        content = path.read_bytes()
    except OSError as error:
        return Rejected(job.source, "not-readable", error.strerror or "")
    sha256 = hashlib.sha256(content).hexdigest()
    name = hashlib.sha256(f"{sha256}\x1f{job.source}".encode()).hexdigest()[:32]
    try:
        picture = read_dicom_frame(path) if job.is_dicom else read_picture(path)
    except UnreadableImage as refusal:
        return Rejected(job.source, refusal.reason, refusal.detail)
    if not job.is_dicom:
        content = secondary_capture(picture, sha256, job.source, len(content))
    target = out / "images" / name[:2] / f"{name}.dcm"
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    part.write_bytes(content)
    part.replace(target)
    rows, columns = picture.pixels.shape
    pixels = hashlib.sha256(f"{rows},{columns},{picture.pixels.dtype}".encode() + picture.pixels.tobytes())
    return Converted(job, target.relative_to(out).as_posix(), sha256, pixels.hexdigest(), rows, columns)


def _describe(converted: Sequence[Converted], extras: Sequence[str], done: Conversion) -> None:
    """Fill the manifest's rows and the conflicts."""
    pictures = name_groups([(c.job.row.picture_group, f"pixels-{c.pixel_sha256[:16]}") for c in converted])
    patients = name_groups(
        [
            (c.job.row.patient_group, "" if c.job.row.patient_group else c.job.patient, f"picture {picture}")
            for c, picture in zip(converted, pictures, strict=True)
        ]
    )
    patients = [p.removeprefix("picture ") for p in patients]
    done.joined_groups = len({c.job.row.patient_group for c in converted} - {""} - set(patients))
    for one, picture, patient in zip(converted, pictures, patients, strict=True):
        values = (
            one.path,
            one.job.label,
            one.job.split,
            patient,
            picture,
            one.job.source,
            one.source_sha256,
            str(one.rows),
            str(one.columns),
        )
        said = one.job.row.extras or {}
        done.manifest.append(dict(zip(MANIFEST_COLUMNS, values, strict=True)) | {c: said.get(c, "") for c in extras})
    done.conflicts = list(_conflicts(converted, pictures))


_CONFLICT_COLUMNS = ("kind", "picture_group", "source", "label", "other_labels")


def _conflicts(converted: Sequence[Converted], pictures: Sequence[str]) -> Iterator[dict[str, str]]:
    """One row an image whose picture has another label elsewhere, or whose folder says another than the file."""
    labels: dict[str, set[str]] = {}
    for one, picture in zip(converted, pictures, strict=True):
        labels.setdefault(picture, set()).add(one.job.label)
    for one, picture in zip(converted, pictures, strict=True):
        job = one.job
        contradictions = []
        if are_in_conflict(labels[picture]):
            contradictions.append(("same-picture", labels[picture] - {job.label}))
        if job.folder_label and job.folder_label != job.label:
            contradictions.append(("folder-differs", {job.folder_label}))
        for kind, others in contradictions:
            yield dict(
                zip(_CONFLICT_COLUMNS, (kind, picture, job.source, job.label, " ".join(sorted(others))), strict=True)
            )


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write the whole table or nothing."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def _print_summary(done: Conversion, out: Path, groups_given: bool, console: Console) -> None:
    table = Table(title="Converted images", title_justify="left")
    splits = sorted({row["split"] for row in done.manifest})
    table.add_column("label")
    for split in splits:
        table.add_column(split or "no split", justify="right")
    table.add_column("patient groups", justify="right")
    table.add_column("pictures", justify="right")
    for label in [*sorted({row["label"] for row in done.manifest}), "all"]:
        rows = [row for row in done.manifest if label in ("all", row["label"])]
        counts = Counter(row["split"] for row in rows)
        groups, pictures = ({row[c] for row in rows} for c in ("patient_group", "picture_group"))
        table.add_row(label, *(str(counts[s]) for s in splits), str(len(groups)), str(len(pictures)))
    console.print(table)
    lines = [f"manifest: {out / 'manifest.csv'}"]
    if done.rejected:
        lines.append(f"{len(done.rejected)} files rejected ({_reasons(done.rejected)}): {out / 'rejected.csv'}")
    if done.conflicts:
        kinds = Counter(row["kind"] for row in done.conflicts)
        counted = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        lines.append(f"{len(done.conflicts)} conflicting labels ({counted}): {out / 'conflicts.csv'}")
    if not groups_given:
        lines.append("no file of groups: only pictures with identical pixels are one group; patients are unknown")
    if done.without_row:
        lines.append(f"{done.without_row} images have no row in the file of labels: folder's label, own group")
    if done.joined_groups:
        lines.append(f"{done.joined_groups} patient groups of the file joined another that shares a picture")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("convert")
    def command(
        src: Path = typer.Argument(..., metavar="SRC", help="Class folders of PNG/JPG, or a folder of DICOM."),
        out: Path = typer.Argument(..., metavar="OUT", help="Folder for DICOM files and manifest.csv."),
        groups: Path | None = typer.Option(
            None, help="CSV/TSV with path, label, patient_group and any other columns, which are kept."
        ),
        labels: Path | None = typer.Option(
            None, help="CSV/TSV with path, series_instance_uid or sop_instance_uid, and label: DICOM needs it."
        ),
        salt: str = typer.Option(
            DEFAULT_SALT,
            envvar="MONAI_TRAIN_SALT",
            help="Secret for the hash of PatientID; give your own before a manifest leaves the house.",
        ),
    ) -> None:
        """Convert pictures (or labelled DICOM) to DICOM files and a manifest.

        Example: monai-train convert data/brain-mri converted --groups data/audit.tsv
        """
        try:
            done = convert(src, out, groups, labels, salt)
        except StartError as error:
            Console(stderr=True).print(f"convert: {error.detail}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None
        _print_summary(done, out, groups is not None or labels is not None, Console())
