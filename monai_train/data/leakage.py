"""`monai-train audit`: images that show the same picture, leakage between splits, contradicting labels.

A test image with a copy in training, perhaps mirrored or brightened, measures memory; the audit counts such images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from monai_train.data.duplicates import LARGE_GROUP, Fingerprint, Pair, find_duplicates, fingerprint_files
from monai_train.data.inventory import RejectedFile, SourceImage, count_reasons, list_converted, take_inventory
from monai_train.data.labels import are_in_conflict, read_label_file
from monai_train.data.patients import name_groups
from worker.errors import StartError
from worker.files import write_atomically

# (evaluated, learnt from): no evaluated image may be known from training.
_SIDES = [("test", "train"), ("val", "train"), ("test", "val")]


@dataclass(frozen=True, slots=True)
class AcrossSplits:
    """How many images of `held_out` are known from `learnt`; every count includes the previous, `clean` is the rest."""

    held_out: str
    learnt: str
    images: int
    identical: int  # with the same pixels
    same_picture: int  # with the same picture, changed or not
    same_patient: int  # with the same patient or picture
    clean: int
    exact_pairs: int
    near_pairs: int


@dataclass(frozen=True, slots=True)
class Audit:
    """Pictures, patients and contradictions among the images of a folder. Positions count from 0 in `images`."""

    images: list[SourceImage]
    prints: list[Fingerprint]
    pairs: list[Pair]
    pictures: list[str]  # name of the picture group, per image
    patients: list[str]  # name of the patient group, per image
    across: list[AcrossSplits]
    conflicts: list[list[int]]  # images of a picture with labels that contradict each other
    rejected: list[RejectedFile]


def audit(source: Path, groups: Path | None = None) -> Audit:
    """Compare every image under `source`: class folders, DICOM, or the output of `convert`.

    `groups` (as for convert) adds pictures and patients that cannot be recognised from pixels.
    Raises StartError if there is nothing to compare.
    """
    if (source / "manifest.csv").is_file():
        inventory = list_converted(source)
        if groups is not None:
            raise StartError("groups-in-manifest", "the manifest holds the groups: give --groups to convert instead")
    else:
        inventory = take_inventory(source, [read_label_file(groups)] if groups else [])
    try:
        outcomes = fingerprint_files([image.file for image in inventory.images])
    except BrokenProcessPool:
        raise StartError("process-died", "a reading process was killed, perhaps because memory ran out") from None
    images, prints = [], []
    rejected = inventory.rejected
    for image, outcome in zip(inventory.images, outcomes, strict=True):
        if isinstance(outcome, Fingerprint):
            images.append(image)
            prints.append(outcome)
        else:
            rejected.append(RejectedFile(image.source, outcome.reason, outcome.detail))
    if not images:
        raise StartError("no-images", f"{source} holds no readable image: {count_reasons(rejected)}")
    return _compare(images, prints, sorted(rejected, key=lambda file: file.source))


def _compare(images: list[SourceImage], prints: list[Fingerprint], rejected: list[RejectedFile]) -> Audit:
    duplicates = find_duplicates(prints)
    same = [""] * len(images)
    for group in duplicates.groups:
        name = min(prints[member].pixel_sha256 for member in group)
        for member in group:
            same[member] = f"picture-{name[:16]}"
    pictures = name_groups([(image.picture_group, name) for image, name in zip(images, same, strict=True)])
    patients = name_groups([(i.patient_group, f"\0{picture}") for i, picture in zip(images, pictures, strict=True)])
    patients = [name.removeprefix("\0") for name in patients]
    across = [
        count_across(images, prints, duplicates.pairs, pictures, patients, held_out, learnt)
        for held_out, learnt in _SIDES
        if {held_out, learnt} <= {image.split for image in images}
    ]
    conflicts = [
        members
        for members in _members(pictures)
        if are_in_conflict({images[member].label for member in members} - {""})
    ]
    return Audit(images, prints, duplicates.pairs, pictures, patients, across, conflicts, rejected)


def _members(names: Sequence[str]) -> list[list[int]]:
    members: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        members.setdefault(name, []).append(position)
    return list(members.values())


def count_across(
    images: Sequence[SourceImage],
    prints: Sequence[Fingerprint],
    pairs: Sequence[Pair],
    pictures: Sequence[str],
    patients: Sequence[str],
    held_out: str,
    learnt: str,
) -> AcrossSplits:
    """Count the images of `held_out` that are known from `learnt`."""
    evaluated = [i for i, image in enumerate(images) if image.split == held_out]
    trained = [i for i, image in enumerate(images) if image.split == learnt]
    pixels = [image.pixel_sha256 for image in prints]

    def known(names: Sequence[str]) -> int:
        learnt_names = {names[i] for i in trained}
        return sum(names[i] in learnt_names for i in evaluated)

    kinds = [pair.kind for pair in pairs if {images[pair.a].split, images[pair.b].split} == {held_out, learnt}]
    return AcrossSplits(
        held_out=held_out,
        learnt=learnt,
        images=len(evaluated),
        identical=known(pixels),
        same_picture=known(pictures),
        same_patient=known(patients),
        clean=len(evaluated) - known(patients),
        exact_pairs=kinds.count("exact"),
        near_pairs=kinds.count("near"),
    )


def as_json(result: Audit) -> dict[str, object]:
    """The audit as JSON values; images are named by their paths relative to the source folder.

    `groups` are pictures and `patient_groups` patients with more than one image, those of a groups file included.
    `pairs` come from the pixels: all pairs of images of a picture, or only those with the first image if more than
    `large_group` show it.
    """
    paths = [image.source for image in result.images]

    def grouped(names: Sequence[str]) -> list[list[str]]:
        return [[paths[m] for m in members] for members in _members(names) if len(members) > 1]

    return {
        "n": len(paths),
        "pairs": [
            {"a": paths[p.a], "b": paths[p.b], "kind": p.kind, "transform": p.transform, "score": round(p.score, 4)}
            for p in result.pairs
        ],
        "large_group": LARGE_GROUP,
        "groups": grouped(result.pictures),
        "patient_groups": grouped(result.patients),
        "across_splits": {
            f"{side.held_out}_in_{side.learnt}": {
                name: getattr(side, name)
                for name in AcrossSplits.__dataclass_fields__
                if name not in ("held_out", "learnt")
            }
            for side in result.across
        },
        "label_conflicts": [
            [{"path": paths[m], "label": result.images[m].label} for m in members] for members in result.conflicts
        ],
        "rejected": [{"path": r.source, "reason": r.reason, "detail": r.detail} for r in result.rejected],
    }


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write the whole file or nothing. Raises StartError if it cannot be written."""
    try:
        write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StartError("output-not-writable", f"cannot write {path}: {error.strerror}") from None


def print_audit(result: Audit, console: Console) -> None:
    """Print counts as a table, then the leakage between splits."""
    counts = Table(title="Audit", title_justify="left", show_header=False)
    kinds = [pair.kind for pair in result.pairs]
    for name, count in [
        ("images", len(result.images)),
        ("different pictures", len(set(result.pictures))),
        ("patient groups (one per picture if none is given)", len(set(result.patients))),
        ("pairs with identical pixels", kinds.count("exact")),
        ("pairs of the same picture, changed", kinds.count("near")),
        ("pictures with conflicting labels", len(result.conflicts)),
        ("files rejected", len(result.rejected)),
    ]:
        counts.add_row(name, str(count))
    console.print(counts)
    if not result.across:
        console.print("no split folders: leakage cannot be determined")
        return
    sides = Table(title="Images known from training", title_justify="left")
    for name in ("held out", "learnt from", "images", "same pixels", "same picture", "same patient", "clean"):
        sides.add_column(name, justify="left" if name in ("held out", "learnt from") else "right")
    for side in result.across:
        numbers = (side.images, side.identical, side.same_picture, side.same_patient, side.clean)
        sides.add_row(side.held_out, side.learnt, *map(str, numbers))
    console.print(sides)
