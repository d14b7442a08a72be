"""`monai-train convert`: pictures in class folders, or DICOM with a table of labels, to DICOM and a manifest.

OUT/images/…        one DICOM file an image, named by a hash
OUT/manifest.csv    what each shows and to whom it belongs; written last, so a manifest never names a missing file
OUT/rejected.csv    what could not be taken, with the reason
OUT/conflicts.csv   labels that contradict each other

The same source gives the same bytes, so a run that was interrupted is simply run again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from monai_train.data.duplicates import Fingerprint, find_duplicates, fingerprints
from monai_train.data.images import UnreadableImage, hash_pixels, read_dicom_frame, read_picture
from monai_train.data.inventory import DEFAULT_SALT, RejectedFile, SourceImage, reasons, take_inventory
from monai_train.data.labels import are_in_conflict, read_label_file
from monai_train.data.manifest import GROUP_COLUMNS, MANIFEST_COLUMNS, write_csv
from monai_train.data.patients import name_groups
from monai_train.data.pool import map_files
from monai_train.data.secondary_capture import secondary_capture
from worker.errors import StartError
from worker.files import write_atomically

_CONFLICT_COLUMNS = ("kind", "picture_group", "source", "label", "other_labels")


@dataclass(frozen=True, slots=True)
class Converted:
    """One image taken: its DICOM file relative to the output folder, and the hashes of file and pixels."""

    image: SourceImage
    path: str
    source_sha256: str
    pixel_sha256: str
    rows: int
    columns: int


@dataclass(slots=True)
class Conversion:
    """What a run did; `manifest` rows have MANIFEST_COLUMNS and the columns of the user's files."""

    manifest: list[dict[str, str]] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    grouped_by: str = ""  # what says which images belong together
    without_row: int = 0  # images which the files of labels and groups do not name
    joined_groups: int = 0  # groups of the file that became part of another, because they share a picture


def convert(
    source: Path,
    out: Path,
    *,
    groups: Path | None = None,
    labels: Path | None = None,
    audit: bool = False,
    salt: str = DEFAULT_SALT,
    choose: Callable[[list[dict[str, str]]], list[dict[str, str]]] | None = None,
) -> Conversion:
    """Convert every image under `source`; the module says what lies in `out` afterwards.

    Images with identical pixels are one group, with `audit` also those that show the same picture, and with `groups`
    what that file joins. `choose` may change the manifest before it is written. Raises StartError: nothing to
    convert, a file of labels that cannot be used, a folder that cannot be written.
    """
    if out.resolve() == source.resolve():
        raise StartError("same-folder", "OUT must not be SRC")
    files = [read_label_file(path) for path in (labels, groups) if path is not None]
    found = take_inventory(source, files, salt, leave_out=out.resolve())
    unlabelled = [image for image in found.images if not image.label]
    images = [image for image in found.images if image.label]
    done = Conversion(rejected=found.rejected + [_without_label(image) for image in unlabelled])
    if not images:
        hint = "; DICOM needs --labels" if any(image.is_dicom for image in unlabelled) else ""
        raise StartError("no-images", f"{source} holds no image that can be taken: {reasons(done.rejected)}{hint}")
    done.without_row = sum(image.row is None for image in images) if files else 0
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
        # An earlier run's manifest would name files that this run replaces.
        (out / "manifest.csv").unlink(missing_ok=True)
        outcomes = list(map_files(partial(convert_one, source=source, out=out), images, "convert"))
        converted = [o for o in outcomes if isinstance(o, Converted)]
        done.rejected += [o for o in outcomes if isinstance(o, RejectedFile)]
        extras = tuple(dict.fromkeys(c for file in files for c in file.extra_columns))
        _describe(converted, _same_pictures(converted, source) if audit else [""] * len(converted), extras, done)
        done.grouped_by = _grouped_by(converted, audit)
        if choose is not None:
            done.manifest = choose(done.manifest)
        _write_tables(done, out)
    except OSError as error:
        raise StartError("output-not-writable", f"cannot write to {out}: {error.strerror}") from None
    except BrokenProcessPool:
        raise StartError("process-died", "a converting process was killed, perhaps for lack of memory") from None
    return done


def _without_label(image: SourceImage) -> RejectedFile:
    why = "a DICOM file needs a row in --labels" if image.is_dicom else "no class folder and no row names its class"
    return RejectedFile(image.source, "no-label", why)


def convert_one(image: SourceImage, source: Path, out: Path) -> Converted | RejectedFile:
    """Take one image. Raises OSError where the output cannot be written."""
    path = source / image.source
    try:
        content = path.read_bytes()
        picture = read_dicom_frame(path) if image.is_dicom else read_picture(path)
    except UnreadableImage as refusal:
        return RejectedFile(image.source, refusal.reason, refusal.detail)
    except OSError as error:
        return RejectedFile(image.source, "not-readable", error.strerror or "")
    sha256 = hashlib.sha256(content).hexdigest()
    if not image.is_dicom:
        content = secondary_capture(picture, sha256, image.source, len(content))
    name = hashlib.sha256(f"{sha256}\x1f{image.source}".encode()).hexdigest()[:32]
    target = out / "images" / name[:2] / f"{name}.dcm"
    target.parent.mkdir(exist_ok=True)
    write_atomically(target, content)
    rows, columns = picture.pixels.shape
    return Converted(image, target.relative_to(out).as_posix(), sha256, hash_pixels(picture.pixels), rows, columns)


def _same_pictures(converted: Sequence[Converted], source: Path) -> list[str]:
    """A name an image, shared by all that show the same picture (monai_train.data.duplicates)."""
    prints = fingerprints([source / one.image.source for one in converted])
    readable = [i for i, one in enumerate(prints) if isinstance(one, Fingerprint)]
    names = [""] * len(converted)
    for group in find_duplicates([one for one in prints if isinstance(one, Fingerprint)]).groups:
        name = min(converted[readable[member]].pixel_sha256 for member in group)
        for member in group:
            names[readable[member]] = f"picture-{name[:16]}"
    return names


def _grouped_by(converted: Sequence[Converted], audit: bool) -> str:
    given = sum(bool(one.image.patient_group) for one in converted)
    return f"patient groups: {given} of {len(converted)} images from the file of groups or from DICOM; the rest by " + (
        "the audit (the same picture is one group)" if audit else "identical pixels only (--audit finds more)"
    )


def _describe(converted: Sequence[Converted], audited: Sequence[str], extras: Sequence[str], done: Conversion) -> None:
    """Fill the manifest's rows and the conflicts."""
    pictures = name_groups(
        [
            (one.image.picture_group, name, f"pixels-{one.pixel_sha256[:16]}")
            for one, name in zip(converted, audited, strict=True)
        ]
    )
    # The prefix keeps a picture group's name from meeting a patient group that is called the same.
    patients = name_groups(
        [(one.image.patient_group, f"\0{picture}") for one, picture in zip(converted, pictures, strict=True)]
    )
    patients = [name.removeprefix("\0") for name in patients]
    done.joined_groups = len({one.image.patient_group for one in converted} - {"", *patients})
    for one, picture, patient in zip(converted, pictures, patients, strict=True):
        image = one.image
        values = (one.path, image.label, image.split, patient, picture, image.source, one.source_sha256)
        said = image.row.extras if image.row else {}
        done.manifest.append(
            dict(zip(MANIFEST_COLUMNS, (*values, str(one.rows), str(one.columns)), strict=True))
            | {column: said.get(column, "") for column in extras}
        )
    done.conflicts = list(_conflicts(converted, pictures))


def _conflicts(converted: Sequence[Converted], pictures: Sequence[str]) -> Iterator[dict[str, str]]:
    """One row an image whose picture has another label elsewhere, or whose folder says another than the file."""
    labels: dict[str, set[str]] = {}
    for one, picture in zip(converted, pictures, strict=True):
        labels.setdefault(picture, set()).add(one.image.label)
    for one, picture in zip(converted, pictures, strict=True):
        image = one.image
        contradictions = []
        if are_in_conflict(labels[picture]):
            contradictions.append(("same-picture", labels[picture] - {image.label}))
        if image.folder_label and image.folder_label != image.label:
            contradictions.append(("folder-differs", {image.folder_label}))
        for kind, others in contradictions:
            values = (kind, picture, image.source, image.label, " ".join(sorted(others)))
            yield dict(zip(_CONFLICT_COLUMNS, values, strict=True))


def _write_tables(done: Conversion, out: Path) -> None:
    done.rejected.sort(key=lambda one: one.source)
    write_csv(out / "rejected.csv", ("source", "reason", "detail"), map(asdict, done.rejected))
    write_csv(out / "conflicts.csv", _CONFLICT_COLUMNS, done.conflicts)
    if not done.manifest:
        raise StartError("no-images", f"no image could be read: {reasons(done.rejected)}; see rejected.csv")
    write_csv(out / "manifest.csv", list(done.manifest[0]), done.manifest)


def print_summary(done: Conversion, out: Path, console: Console) -> None:
    """Images by label and split as a table, then where the lists lie."""
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
        groups, pictures = ({row[c] for row in rows} for c in GROUP_COLUMNS)
        table.add_row(label, *(str(counts[s]) for s in splits), str(len(groups)), str(len(pictures)))
    console.print(table)
    lines = [f"manifest: {out / 'manifest.csv'}"]
    if done.rejected:
        lines.append(f"{len(done.rejected)} files rejected ({reasons(done.rejected)}): {out / 'rejected.csv'}")
    if done.conflicts:
        kinds = Counter(row["kind"] for row in done.conflicts)
        counted = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        lines.append(f"{len(done.conflicts)} conflicting labels ({counted}): {out / 'conflicts.csv'}")
    lines.append(done.grouped_by)
    if done.without_row:
        lines.append(f"{done.without_row} images have no row in the file of labels: folder's label, own group")
    if done.joined_groups:
        lines.append(f"{done.joined_groups} patient groups of the file joined another that shares a picture")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
