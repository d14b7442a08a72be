"""Patient groups: which pictures belong to one patient, and a split that never divides a patient.

Groups are found by union-find over whatever says "the same picture" or "the same patient".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum

from monai_train.data.manifest import ManifestRow


class Groups:
    """Equivalence classes of the numbers 0 … n-1; `join` makes two one."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, item: int) -> int:
        """The number that stands for the item's group."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        """Put both items' groups together; the smaller number stands for them."""
        first, second = sorted((self.find(a), self.find(b)))
        self._parent[second] = first

    def members(self) -> list[list[int]]:
        """Every group as a sorted list, in the order of the first members."""
        found: dict[int, list[int]] = {}
        for item in range(len(self._parent)):
            found.setdefault(self.find(item), []).append(item)
        return list(found.values())


def name_groups(tokens: Sequence[Sequence[str]]) -> list[str]:
    """One group name an item: items that share a token are one group, and so are those linked over others.

    An item's tokens go from the most trusted (a name the user gave) to the least (a hash of pixels); the group takes
    the smallest of the most trusted tokens its members have. "" says nothing. Every item needs one token that does.
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
    """What a picture is for. OVERLAP belongs to an external set but shows a patient whom training knows."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    EXTERNAL = "external"
    OVERLAP = "overlap"


def _share(group: str) -> float:
    """A fixed number in [0, 1) for each patient group: the same on every machine and whatever else is in the data."""
    return int(hashlib.sha256(f"split:{group}".encode()).hexdigest()[:8], 16) / 16**8


def split_roles(
    rows: Sequence[ManifestRow], external: Sequence[str], test_share: float, validation_share: float
) -> tuple[SplitRole, ...]:
    """The role of every row. A patient group is never on two sides: its share alone decides."""
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


def split_sha256(rows: Sequence[ManifestRow], roles: Sequence[SplitRole]) -> str:
    """Identifies a split: which source files have which role."""
    lines = sorted(f"{row.source_sha256} {role}" for row, role in zip(rows, roles, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
