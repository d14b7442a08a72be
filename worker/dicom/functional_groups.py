"""Attributes in the functional groups of a multi-frame image (PS3.3 C.7.6.16): those that are not at top level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydicom.dataset import Dataset

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
MAXIMUM_VARIANTS = 64  # of frames that differ in what rules need; routing rules are per series, not per frame

Texts = list[str]


def has_groups(ds: Dataset) -> bool:
    """Whether a dataset has functional groups."""
    return SHARED in ds or PER_FRAME in ds


def frame_variants(
    ds: Dataset, keywords: Sequence[str], read: Callable[[Dataset, str], Texts]
) -> list[dict[str, Texts | None]]:
    """The values of attributes in functional groups: one variant for all frames that have the same, at least one.

    A macro is either shared or in every frame's group, so a value is looked up in the shared groups first, then in the
    frames' groups. An attribute that no group has is in no variant; where more than MAXIMUM_VARIANTS variants differ,
    its value is None. `read` gives the texts of an attribute of a dataset. Raises whatever pydicom raises on damage.
    """
    groups = _read_groups(_items(ds, SHARED)[:1], keywords, read)
    shared: dict[str, Texts | None] = dict(groups[0]) if groups else {}
    frames = _read_groups(_items(ds, PER_FRAME), [keyword for keyword in keywords if keyword not in shared], read)
    variants = {tuple((keyword, tuple(texts or ())) for keyword, texts in frame.items()): frame for frame in frames}
    if len(variants) > MAXIMUM_VARIANTS:
        unknown: dict[str, Texts | None] = dict.fromkeys(keyword for frame in frames for keyword in frame)
        return [shared | unknown]
    return [shared | variant for variant in variants.values()] or [shared]


def _items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    return ds.get(keyword) or ()


def _read_groups(
    groups: Sequence[Dataset], keywords: Sequence[str], read: Callable[[Dataset, str], Texts]
) -> list[dict[str, Texts | None]]:
    """The values in each group of a sequence. All groups have the same macros, so the first shows which has what."""
    if not groups or not keywords:
        return []
    macro_tags: dict[str, Any] = {}
    for element in groups[0]:
        if element.VR == "SQ" and element.value:
            macro_tags |= {keyword: element.tag for keyword in keywords if keyword in element.value[0]}
    values: list[dict[str, Texts | None]] = []
    for group in groups:
        macros = {keyword: group[tag].value if tag in group else None for keyword, tag in macro_tags.items()}
        values.append({keyword: read(macro[0], keyword) if macro else [] for keyword, macro in macros.items()})
    return values
