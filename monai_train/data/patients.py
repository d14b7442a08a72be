"""Patient groups: which pictures belong to the same patient, and a split that never divides a patient.

Groups are found by union-find over whatever says "the same picture" or "the same patient".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from monai_train.data.labels import Classes
from monai_train.data.manifest import ManifestRow

LEARNED, PREFIX = "configs/learned_pictures.txt", 12  # a bundle's list of what it learned from: beginnings of SHA-256
EARLIER = "earlier_pictures.txt"  # the same, of a run's initial weights
DEFAULT_SALT = "monai-train"  # of the hash by which DICOM patients are named


class Groups:
    """Equivalence classes of the numbers 0 … n-1 (union-find)."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, item: int) -> int:
        """The number that represents the item's group."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        """Merge the groups of both items; the smaller number represents them."""
        first, second = sorted((self.find(a), self.find(b)))
        self._parent[second] = first

    def members(self) -> list[list[int]]:
        """Every group as a sorted list, in the order of the first members."""
        groups: dict[int, list[int]] = {}
        for item in range(len(self._parent)):
            groups.setdefault(self.find(item), []).append(item)
        return list(groups.values())


def name_groups(tokens: Sequence[Sequence[str]]) -> list[str]:
    """Name the group of each item: items that share a token, directly or over others, are of the same group.

    An item's tokens are ordered from the most trusted (a name by the user) to the least (a hash of pixels); a group is
    named by the smallest of its members' most trusted tokens. "" is no token; every item needs at least 1 token.
    """
    groups = Groups(len(tokens))
    first_with: dict[str, int] = {}
    for item, own in enumerate(tokens):
        for token in own:
            if token:
                groups.join(item, first_with.setdefault(token, item))
    names = [""] * len(tokens)
    for members in groups.members():
        name = _best(tokens[m] for m in members)
        for m in members:
            names[m] = name
    return names


def _best(tokens: Iterable[Sequence[str]]) -> str:
    return min((rank, token) for own in tokens for rank, token in enumerate(own) if token)[1]


class SplitRole(StrEnum):
    """What a picture is used for. OVERLAP is a picture of an external set whose patient is in training."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    EXTERNAL = "external"
    OVERLAP = "overlap"


def _share(group: str) -> float:
    """A fixed number in [0, 1) per patient group, on every machine and regardless of the other data."""
    return int(hashlib.sha256(f"split:{group}".encode()).hexdigest()[:8], 16) / 16**8


def split_roles(
    rows: Sequence[ManifestRow], external: Sequence[str], test_share: float, validation_share: float
) -> tuple[SplitRole, ...]:
    """The role of every row. Only a patient group's share decides, so it is never on two sides.

    A name in `external` is that of a data set, or `data set:diagnosis`.
    """
    known: set[str] = set()
    roles: list[SplitRole] = []
    for row in rows:
        share = _share(row.patient_group)
        if not {row.dataset, f"{row.dataset}:{row.diagnosis}"}.isdisjoint(external):
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


def unseen(rows: Sequence[ManifestRow], chosen: Iterable[int], learned: frozenset[str]) -> list[int]:
    """Those of `chosen` with neither a learned picture nor a patient of such a picture; `learned` as in LEARNED."""
    known = [row for row in rows if row.source_sha256[:PREFIX] in learned]
    patients, pictures = {row.patient_group for row in known}, {row.picture_group for row in known}
    return [i for i in chosen if rows[i].patient_group not in patients and rows[i].picture_group not in pictures]


def learned_pictures(bundle: Path) -> frozenset[str]:
    """The beginnings of the hashes of what a bundle learned from; empty for a bundle that does not list them."""
    path = bundle / LEARNED
    return frozenset(path.read_text().split()) if path.is_file() else frozenset()


def earlier_pictures(weights: Path) -> str:
    """What is known of the pictures that initial weights learned from, as in LEARNED; "" if nothing is.

    They lie beside the weights in a run, and in the `configs` of a bundle.
    """
    for path in (weights.parent / EARLIER, weights.parent.parent / LEARNED):
        if path.is_file():
            return path.read_text()
    return ""


def split_classes(rows: Sequence[ManifestRow], roles: Sequence[SplitRole]) -> Classes:
    """The classes that a model of this split has: those of all rows but the external ones. Raises StartError."""
    outside = (SplitRole.EXTERNAL, SplitRole.OVERLAP)
    return Classes.of(row.label for row, role in zip(rows, roles, strict=True) if role not in outside)


def split_sha256(rows: Sequence[ManifestRow], roles: Sequence[SplitRole]) -> str:
    """SHA-256 that identifies a split: which source files have which role."""
    lines = sorted(f"{row.source_sha256} {role}" for row, role in zip(rows, roles, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
