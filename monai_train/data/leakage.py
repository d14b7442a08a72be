"""`monai-train audit`: which images show the same picture, what stands on both sides of a split, which labels clash.

A test image whose copy, mirrored or brightened, was trained on measures memory; the audit counts such images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from monai_train.data.duplicates import LARGE_GROUP, Fingerprint, Pair, find_duplicates, fingerprints
from monai_train.data.inventory import RejectedFile, SourceImage, list_converted, reasons, take_inventory
from monai_train.data.labels import are_in_conflict, read_label_file
from monai_train.data.patients import name_groups
from worker.errors import StartError
from worker.files import write_atomically

# Which side is judged by which: a test image must not have been learnt from.
_SIDES = [("test", "train"), ("val", "train"), ("test", "val")]


@dataclass(frozen=True, slots=True)
class AcrossSplits:
    """How many images of `held_out` are known from `learnt`; each count holds the one before it, `clean` the rest."""

    held_out: str
    learnt: str
    images: int
    identical: int  # the same pixels are there
    same_picture: int  # the same picture is there, changed or not
    same_patient: int  # the same patient or picture is there
    clean: int
    exact_pairs: int
    near_pairs: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What the images of a folder share. Positions count from 0 in `images`."""

    images: list[SourceImage]
    prints: list[Fingerprint]
    pairs: list[Pair]
    pictures: list[str]  # name of the picture group, an image
    patients: list[str]  # name of the patient group, an image
    across: list[AcrossSplits]
    conflicts: list[list[int]]  # images of one picture with labels that exclude each other
    rejected: list[RejectedFile]


def audit(source: Path, groups: Path | None = None) -> Audit:
    """Compare every image under `source`: class folders, DICOM, or what `convert` wrote.

    `groups` (as for convert) joins what the pixels cannot tell: the pictures and the patients of that file.
    Raises StartError where there is nothing to compare.
    """
    if (source / "manifest.csv").is_file():
        found = list_converted(source)
        if groups is not None:
            raise StartError("groups-in-manifest", "the manifest holds the groups; give --groups to convert")
    else:
        found = take_inventory(source, [read_label_file(groups)] if groups else [])
    try:
        outcomes = fingerprints([source / image.source for image in found.images])
    except BrokenProcessPool:
        raise StartError("process-died", "a reading process was killed, perhaps for lack of memory") from None
    images, prints = [], []
    rejected = found.rejected
    for image, outcome in zip(found.images, outcomes, strict=True):
        if isinstance(outcome, Fingerprint):
            images.append(image)
            prints.append(outcome)
        else:
            rejected.append(RejectedFile(image.source, outcome.reason, outcome.detail))
    if not images:
        raise StartError("no-images", f"{source} holds no image that can be read: {reasons(rejected)}")
    return _judge(images, prints, sorted(rejected, key=lambda one: one.source))


def _judge(images: list[SourceImage], prints: list[Fingerprint], rejected: list[RejectedFile]) -> Audit:
    found = find_duplicates(prints)
    same = [""] * len(images)
    for group in found.groups:
        name = min(prints[member].pixel_sha256 for member in group)
        for member in group:
            same[member] = f"picture-{name[:16]}"
    pictures = name_groups([(image.picture_group, name) for image, name in zip(images, same, strict=True)])
    patients = name_groups([(i.patient_group, f"\0{picture}") for i, picture in zip(images, pictures, strict=True)])
    patients = [name.removeprefix("\0") for name in patients]
    across = [
        count_across(images, prints, found.pairs, pictures, patients, held_out, learnt)
        for held_out, learnt in _SIDES
        if {held_out, learnt} <= {image.split for image in images}
    ]
    conflicts = [
        members
        for members in _members(pictures)
        if are_in_conflict({images[member].label for member in members} - {""})
    ]
    return Audit(images, prints, found.pairs, pictures, patients, across, conflicts, rejected)


def _members(names: Sequence[str]) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        found.setdefault(name, []).append(position)
    return list(found.values())


def count_across(
    images: Sequence[SourceImage],
    prints: Sequence[Fingerprint],
    pairs: Sequence[Pair],
    pictures: Sequence[str],
    patients: Sequence[str],
    held_out: str,
    learnt: str,
) -> AcrossSplits:
    """What of `held_out` is known from `learnt`."""
    judged = [i for i, image in enumerate(images) if image.split == held_out]
    trained = [i for i, image in enumerate(images) if image.split == learnt]
    pixels = [one.pixel_sha256 for one in prints]

    def known(names: Sequence[str]) -> int:
        there = {names[i] for i in trained}
        return sum(names[i] in there for i in judged)

    kinds = [p.kind for p in pairs if {images[p.a].split, images[p.b].split} == {held_out, learnt}]
    return AcrossSplits(
        held_out=held_out,
        learnt=learnt,
        images=len(judged),
        identical=known(pixels),
        same_picture=known(pictures),
        same_patient=known(patients),
        clean=len(judged) - known(patients),
        exact_pairs=kinds.count("exact"),
        near_pairs=kinds.count("near"),
    )


def as_json(found: Audit) -> dict[str, object]:
    """The audit as plain values; images are named by their paths relative to the source folder.

    `groups` are pictures and `patient_groups` patients with more than one image, joined with those of a groups file.
    `pairs` is what the pixels tell: every two images of one picture, but where more than `large_group` show it only
    the pairs with the first.
    """
    paths = [image.source for image in found.images]

    def grouped(names: Sequence[str]) -> list[list[str]]:
        return [[paths[m] for m in members] for members in _members(names) if len(members) > 1]

    return {
        "n": len(paths),
        "pairs": [
            {"a": paths[p.a], "b": paths[p.b], "kind": p.kind, "transform": p.transform, "score": round(p.score, 4)}
            for p in found.pairs
        ],
        "large_group": LARGE_GROUP,
        "groups": grouped(found.pictures),
        "patient_groups": grouped(found.patients),
        "across_splits": {
            f"{one.held_out}_in_{one.learnt}": {
                name: getattr(one, name)
                for name in AcrossSplits.__dataclass_fields__
                if name not in ("held_out", "learnt")
            }
            for one in found.across
        },
        "label_conflicts": [
            [{"path": paths[m], "label": found.images[m].label} for m in members] for members in found.conflicts
        ],
        "rejected": [{"path": r.source, "reason": r.reason, "detail": r.detail} for r in found.rejected],
    }


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write the whole file or nothing. Raises StartError where it cannot be written."""
    try:
        write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StartError("output-not-writable", f"cannot write {path}: {error.strerror}") from None


def print_audit(found: Audit, console: Console) -> None:
    """Counts as a table, then what stands on both sides of a split."""
    counts = Table(title="Audit", title_justify="left", show_header=False)
    kinds = [pair.kind for pair in found.pairs]
    for name, count in [
        ("images", len(found.images)),
        ("different pictures", len(set(found.pictures))),
        ("patient groups (one a picture where none is given)", len(set(found.patients))),
        ("pairs with identical pixels", kinds.count("exact")),
        ("pairs of the same picture, changed", kinds.count("near")),
        ("pictures with conflicting labels", len(found.conflicts)),
        ("files rejected", len(found.rejected)),
    ]:
        counts.add_row(name, str(count))
    console.print(counts)
    if not found.across:
        console.print("no split folders, so nothing can stand on both sides of one")
        return
    sides = Table(title="What the training side knows already", title_justify="left")
    for name in ("held out", "learnt from", "images", "same pixels", "same picture", "same patient", "clean"):
        sides.add_column(name, justify="left" if name in ("held out", "learnt from") else "right")
    for one in found.across:
        numbers = (one.images, one.identical, one.same_picture, one.same_patient, one.clean)
        sides.add_row(one.held_out, one.learnt, *map(str, numbers))
    console.print(sides)
