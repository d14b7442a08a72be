"""What the functional groups of a multi-frame image say (PS3.3 C.7.6.16): its attributes that are not at top level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydicom.dataset import Dataset

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
MOST_KINDS = 64  # of frames that differ in what is asked for; a rule about a series is not about a frame

Texts = list[str]


def has_groups(ds: Dataset) -> bool:
    return SHARED in ds or PER_FRAME in ds


def group_values(
    ds: Dataset, keywords: Sequence[str], read: Callable[[Dataset, str], Texts]
) -> list[dict[str, Texts | None]]:
    """The values of attributes in functional groups: one answer for each kind of frame, a single one where all agree.

    A macro is either shared or in every frame's group, so a value is looked for in one, then in the other. What no
    group has is not in the answers; None is what differs among more than MOST_KINDS frames. `read` gives the texts of
    an attribute of a dataset. Raises whatever pydicom raises on damage.
    """
    shared = _found(_items(ds, SHARED)[:1], keywords, read)
    found: dict[str, Texts | None] = dict(shared[0]) if shared else {}
    frames = _found(_items(ds, PER_FRAME), [one for one in keywords if one not in found], read)
    kinds = {tuple((keyword, tuple(texts or ())) for keyword, texts in one.items()): one for one in frames}
    if len(kinds) > MOST_KINDS:
        unknown: dict[str, Texts | None] = dict.fromkeys(keyword for one in frames for keyword in one)
        return [found | unknown]
    return [found | one for one in kinds.values()] or [found]


def _items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    return ds.get(keyword) or ()


def _found(
    groups: Sequence[Dataset], keywords: Sequence[str], read: Callable[[Dataset, str], Texts]
) -> list[dict[str, Texts | None]]:
    """For each group of one sequence what it says. The first one tells which macro has what, for all have the same."""
    if not groups or not keywords:
        return []
    places: dict[str, Any] = {}
    for element in groups[0]:
        if element.VR == "SQ" and element.value:
            places |= {keyword: element.tag for keyword in keywords if keyword in element.value[0]}
    found: list[dict[str, Texts | None]] = []
    for group in groups:
        macros = {keyword: group[tag].value if tag in group else None for keyword, tag in places.items()}
        found.append({keyword: read(macro[0], keyword) if macro else [] for keyword, macro in macros.items()})
    return found
