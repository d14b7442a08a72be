"""`monai-train convert`: pictures in class folders, or DICOM with a table of labels, to DICOM and a manifest.

OUT/images/…        one DICOM file per image, named by a hash; the pictures of a whole series are one DICOM series
OUT/masks/…         the masks of tumours, as they were
OUT/manifest.csv    what is known of each image; written last, so that it never names a missing file
OUT/rejected.csv    rejected files, with the reason: also what the preprocessing of a training would refuse
OUT/conflicts.csv   labels that contradict each other

The same source gives the same bytes: to complete an interrupted run, run it again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

import worker.dicom.character_sets  # noqa: F401 - text of senders is decoded here
from monai_train.data.duplicates import Fingerprint, find_duplicates, fingerprint_files
from monai_train.data.images import UnreadableImage, hash_pixels, read_dicom_frame, read_picture
from monai_train.data.inventory import Inventory, RejectedFile, SourceImage, count_reasons, take_inventory
from monai_train.data.labels import are_in_conflict, read_label_file
from monai_train.data.manifest import GROUP_COLUMNS, MANIFEST_COLUMNS, SERIES_COLUMNS, write_csv
from monai_train.data.patients import DEFAULT_SALT, name_groups
from monai_train.data.pool import map_files
from monai_train.data.secondary_capture import encode_secondary_capture
from monai_train.data.sources.slice_series import encode_slice
from monai_train.data.sources.stacks import Stack, check_stack
from worker.errors import StartError
from worker.files import write_atomically
from worker.wording import counted

_CONFLICT_COLUMNS = ("kind", "picture_group", "source", "label", "other_labels")


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted image: its DICOM file relative to the output folder, and the hashes of file and pixels."""

    image: SourceImage
    path: str
    source_sha256: str
    pixel_sha256: str
    rows: int
    columns: int
    mask: str = ""  # relative to the output folder

    @property
    def series(self) -> str:
        """The series that the image is a slice of, by the user's file or by its UID; "" for a picture on its own."""
        given = self.image.row.extras.get("series", "") if self.image.row else ""
        return given or (self.image.place.series_uid if self.image.place else self.image.series)


@dataclass(slots=True)
class Conversion:
    """Result of a run; `manifest` rows have MANIFEST_COLUMNS and the extra columns of the user's files."""

    manifest: list[dict[str, str]] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    grouped_by: str = ""  # how images were grouped, as a sentence
    without_row: int = 0  # images that the files of labels and groups do not name
    alone: Counter[str] = field(default_factory=Counter)  # series that are no stack, by reason: each image on its own
    merged_groups: int = 0  # groups of the file that were merged into another, because they share a picture


def convert(
    source: Path,
    out: Path,
    *,
    groups: Path | None = None,
    labels: Path | None = None,
    audit: bool = False,
    salt: str = DEFAULT_SALT,
    tables: Sequence[Path] = (),
    choose: Callable[[list[dict[str, str]]], list[dict[str, str]]] | None = None,
) -> Conversion:
    """Convert every image under `source` into `out`; the module lists its files.

    Images with identical pixels form a group; with `audit`, so do those that show the same picture, and with `groups`,
    those that the file groups. `tables` below `source` are known to be no images. `choose` filters the manifest before
    it is written. Raises StartError: nothing to convert, a label file that cannot be used, a folder that cannot be
    written.
    """
    if out.resolve() == source.resolve():
        raise StartError("same-folder", "OUT must not be SRC")
    files = [read_label_file(path) for path in (labels, groups) if path is not None]
    try:
        with TemporaryDirectory(prefix="monai-train-") as unpacked:
            inventory = take_inventory(source, files, salt, exclude=out.resolve(), unpacked=Path(unpacked))
            no_images = {path.resolve() for path in (labels, groups, *tables) if path is not None}
            inventory.rejected = [
                file for file in inventory.rejected if (source / file.source).resolve() not in no_images
            ]
            images = [image for image in inventory.images if image.is_known]
            done = Conversion(
                rejected=inventory.rejected
                + [_without_label(image) for image in inventory.images if not image.is_known]
            )
            _require_images(source, images, inventory, done)
            done.without_row = sum(image.row is None for image in images) if files else 0
            _make_folders(out)
            converted = _convert_images(images, source, out, done)
            stacks = _check_stacks(converted, out, done)
            converted = [item for item in converted if item.path in stacks]
            same = _same_pictures(converted) if audit else [""] * len(converted)
            _describe(converted, same, stacks, done)
        done.grouped_by = _grouped_by(converted, audit)
        if choose is not None:
            done.manifest = choose(done.manifest)
        _write_tables(done, out)
    except OSError as error:
        raise StartError("output-not-writable", f"cannot write to {out}: {error.strerror}") from None
    except BrokenProcessPool:
        raise StartError("process-died", "a conversion process was killed, perhaps because memory ran out") from None
    return done


def _without_label(image: SourceImage) -> RejectedFile:
    detail = "a DICOM file needs a row in --labels" if image.is_dicom else "no class folder and no row names its class"
    return RejectedFile(image.source, "no-label", detail)


def _require_images(source: Path, images: Sequence[SourceImage], inventory: Inventory, done: Conversion) -> None:
    if not images:
        hint = "; DICOM needs --labels" if any(image.is_dicom for image in inventory.images) else ""
        rejected = count_reasons(done.rejected)
        raise StartError("no-images", f"{source} holds no image that can be converted: {rejected}{hint}")


def _make_folders(out: Path) -> None:
    (out / "images").mkdir(parents=True, exist_ok=True)
    # An earlier run's manifest would name files that this run replaces.
    (out / "manifest.csv").unlink(missing_ok=True)


def _convert_images(images: Sequence[SourceImage], source: Path, out: Path, done: Conversion) -> list[Converted]:
    outcomes = list(map_files(partial(convert_image, source=source, out=out), images, "convert"))
    done.rejected += [outcome for outcome in outcomes if isinstance(outcome, RejectedFile)]
    return [outcome for outcome in outcomes if isinstance(outcome, Converted)]


def convert_image(image: SourceImage, source: Path, out: Path) -> Converted | RejectedFile:
    """Convert an image, and its mask. Raises OSError if the output cannot be written."""
    try:
        content = image.file.read_bytes()
        picture = read_dicom_frame(image.file) if image.is_dicom else read_picture(image.file)
        mask = (source / image.mask).read_bytes() if image.mask else b""
    except UnreadableImage as error:
        return RejectedFile(image.source, error.reason, error.detail)
    except OSError as error:
        return RejectedFile(image.source, "not-readable", error.strerror or "")
    if picture.pixels.min() == picture.pixels.max():
        return RejectedFile(image.source, "blank-image", "all pixels are equal")
    sha256 = hashlib.sha256(content).hexdigest()
    if image.place is not None:
        content = encode_slice(picture, image.place, sha256, len(content))
    elif not image.is_dicom:
        content = encode_secondary_capture(picture, sha256, image.source, len(content))
    path = _write(out / "images", f"{sha256}\x1f{image.source}", ".dcm", content)
    mask_path = _write(out / "masks", image.mask, ".png", mask) if mask else None
    rows, columns = picture.pixels.shape
    return Converted(
        image,
        path.relative_to(out).as_posix(),
        sha256,
        hash_pixels(picture.pixels),
        rows,
        columns,
        mask_path.relative_to(out).as_posix() if mask_path else "",
    )


def _write(folder: Path, identity: str, suffix: str, content: bytes) -> Path:
    """Write a file that is named by a hash of what identifies it."""
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    target = folder / name[:2] / f"{name}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    return target


def _check_stacks(converted: Sequence[Converted], out: Path, done: Conversion) -> dict[str, dict[str, str]]:
    """What the worker's preprocessing makes of every series, and of every picture on its own: columns by path.

    A picture that it refuses is rejected, and its file deleted.
    """
    members: dict[str, list[Converted]] = {}
    for item in converted:
        members.setdefault(item.series or item.path, []).append(item)
    stacks = [
        Stack(tuple(item.path for item in items), items[0].series, items[0].image.is_of_archive)
        for items in members.values()
    ]
    found: dict[str, dict[str, str]] = {}
    refused: dict[str, tuple[str, str]] = {}
    for checked in map_files(partial(check_stack, out=out), stacks, "check"):
        found |= checked.columns
        refused |= checked.refused
        if checked.reason:
            done.alone[checked.reason] += 1
    for item in converted:
        if item.path in refused:
            done.rejected.append(RejectedFile(item.image.source, *refused[item.path]))
            (out / item.path).unlink()
    return found


def _same_pictures(converted: Sequence[Converted]) -> list[str]:
    """A name per image, shared by all that show the same picture (monai_train.data.duplicates)."""
    results = fingerprint_files([item.image.file for item in converted])
    fingerprints = {i: result for i, result in enumerate(results) if isinstance(result, Fingerprint)}
    readable = list(fingerprints)
    names = [""] * len(converted)
    for group in find_duplicates(list(fingerprints.values())).groups:
        name = min(converted[readable[member]].pixel_sha256 for member in group)
        for member in group:
            names[readable[member]] = f"picture-{name[:16]}"
    return names


def _grouped_by(converted: Sequence[Converted], audit: bool) -> str:
    given = sum(bool(item.image.patient_group) for item in converted)
    others = "the audit (same picture, same group)" if audit else "identical pixels only (--audit finds more)"
    return (
        f"patient groups: {given} of {len(converted)} images from the file of groups or from DICOM; others by {others}"
    )


def _describe(
    converted: Sequence[Converted], audited: Sequence[str], stacks: Mapping[str, Mapping[str, str]], done: Conversion
) -> None:
    """Fill the manifest's rows and the conflicts."""
    pictures = name_groups(
        [
            (item.image.picture_group, name, f"pixels-{item.pixel_sha256[:16]}")
            for item, name in zip(converted, audited, strict=True)
        ]
    )
    # The prefix keeps a picture group from being merged with a patient group of the same name.
    patients = name_groups(
        [(item.image.patient_group, f"\0{picture}") for item, picture in zip(converted, pictures, strict=True)]
    )
    patients = [name.removeprefix("\0") for name in patients]
    done.merged_groups = len({item.image.patient_group for item in converted} - {"", *patients})
    extras = dict.fromkeys(column for item in converted for column in (item.image.row.extras if item.image.row else ()))
    for item, picture, patient in zip(converted, pictures, patients, strict=True):
        image = item.image
        measured = {
            "path": item.path,
            "label": image.label,
            "split": image.split,
            "patient_group": patient,
            "picture_group": picture,
            "source": image.source,
            "source_sha256": item.source_sha256,
            "rows": str(item.rows),
            "columns": str(item.columns),
            "mask": item.mask,
        }
        given = image.row.extras if image.row else {}
        known = {column: given.get(column) or stacks[item.path].get(column, "") for column in SERIES_COLUMNS}
        known["series"] = stacks[item.path]["series"]
        known["sequence"] = known["sequence"] or _sequence_of_source(image)
        done.manifest.append({column: given.get(column, "") for column in extras} | known | measured)
    done.conflicts = list(_conflicts(converted, pictures))


def _sequence_of_source(image: SourceImage) -> str:
    """Cheng's pictures are T1-weighted with contrast agent, also those that other sets took over (`cheng_slice`)."""
    extras = image.row.extras if image.row else {}
    return "T1C" if extras.get("cheng_slice") or "cheng" in Path(image.source).parts[:-1] else ""


def _conflicts(converted: Sequence[Converted], pictures: Sequence[str]) -> Iterator[dict[str, str]]:
    """A row per image whose picture has another label elsewhere, or whose folder contradicts the label file."""
    labels: dict[str, set[str]] = {}
    for item, picture in zip(converted, pictures, strict=True):
        labels.setdefault(picture, set()).add(item.image.label)
    for item, picture in zip(converted, pictures, strict=True):
        image = item.image
        contradictions = []
        if are_in_conflict(labels[picture]):
            contradictions.append(("same-picture", labels[picture] - {image.label}))
        if image.folder_label and image.folder_label != image.label:
            contradictions.append(("folder-differs", {image.folder_label}))
        for kind, others in contradictions:
            values = (kind, picture, image.source, image.label, " ".join(sorted(others)))
            yield dict(zip(_CONFLICT_COLUMNS, values, strict=True))


def _write_tables(done: Conversion, out: Path) -> None:
    done.rejected.sort(key=lambda file: file.source)
    write_csv(out / "rejected.csv", ("source", "reason", "detail"), map(asdict, done.rejected))
    write_csv(out / "conflicts.csv", _CONFLICT_COLUMNS, done.conflicts)
    if not done.manifest:
        raise StartError("no-images", f"no image could be read: {count_reasons(done.rejected)}; see rejected.csv")
    columns = dict.fromkeys([*MANIFEST_COLUMNS, *done.manifest[0]])
    write_csv(out / "manifest.csv", list(columns), done.manifest)


def print_summary(done: Conversion, out: Path, console: Console) -> None:
    """Print images by label and split as a table, then the paths of the lists."""
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
        table.add_row(label or "no label", *(str(counts[s]) for s in splits), str(len(groups)), str(len(pictures)))
    console.print(table)
    lines = [f"manifest: {out / 'manifest.csv'}"]
    if done.rejected:
        lines.append(
            f"{counted(len(done.rejected), 'file')} rejected ({count_reasons(done.rejected)}): {out / 'rejected.csv'}"
        )
    if done.conflicts:
        kinds = Counter(row["kind"] for row in done.conflicts)
        by_kind = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        lines.append(f"{counted(len(done.conflicts), 'conflicting label')} ({by_kind}): {out / 'conflicts.csv'}")
    lines.append(done.grouped_by)
    if done.alone:
        by_reason = ", ".join(f"{n} {reason}" for reason, n in done.alone.most_common())
        lines.append(f"{done.alone.total()} series without a stack of slices ({by_reason}): the images stand alone")
    if done.without_row:
        lines.append(
            f"{counted(done.without_row, 'image')} without a row in the label file: "
            "labelled by folder, each a group of its own"
        )
    if done.merged_groups:
        lines.append(
            f"{counted(done.merged_groups, 'patient group')} of the file merged with another that shares a picture"
        )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
