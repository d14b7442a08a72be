"""Patient groups: which pictures belong to the same patient, and a split that never divides a patient.

Groups are found by union-find over whatever says "the same picture" or "the same patient".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum

from monai_train.data.labels import Classes
from monai_train.data.manifest import ManifestRow

LEARNED, PREFIX = "configs/learned_pictures.txt", 12  # a bundle's list of what it learned from: beginnings of SHA-256
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
    """The role of every row. Only a patient group's share decides, so it is never on two sides."""
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


def split_classes(rows: Sequence[ManifestRow], roles: Sequence[SplitRole]) -> Classes:
    """The classes that a model of this split has: those of all rows but the external ones. Raises StartError."""
    outside = (SplitRole.EXTERNAL, SplitRole.OVERLAP)
    return Classes.of(row.label for row, role in zip(rows, roles, strict=True) if role not in outside)


def split_sha256(rows: Sequence[ManifestRow], roles: Sequence[SplitRole]) -> str:
    """SHA-256 that identifies a split: which source files have which role."""
    lines = sorted(f"{row.source_sha256} {role}" for row, role in zip(rows, roles, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
