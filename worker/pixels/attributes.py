"""Attributes of an image whose values may be damaged: what is no usable value counts as absent."""

from __future__ import annotations

import math
from typing import Any

from pydicom import Dataset

import worker.dicom.character_sets  # noqa: F401 - text of senders is decoded here

# The functional group items of a frame (None where there are none) and the image itself, the most specific first.
Sources = tuple[Dataset | None, ...]


def frame_sources(ds: Dataset, index: int) -> Sources:
    """Where an attribute of frame `index`, counted from 0, may be written: PS3.3 C.7.6.16."""
    return (
        sequence_item(ds, "PerFrameFunctionalGroupsSequence", index),
        sequence_item(ds, "SharedFunctionalGroupsSequence", 0),
        ds,
    )


def first_numbers(sources: Sources, group: str, keyword: str, count: int) -> tuple[float, ...] | None:
    """The values in the first source that has `count` finite numbers: in its functional group, or at its top level."""
    for source in sources:
        for holder in (sequence_item(source, group, 0), source):
            numbers = finite_numbers(holder, keyword)
            if len(numbers) == count:
                return numbers
    return None


def finite_numbers(holder: Dataset | None, keyword: str) -> tuple[float, ...]:
    """The finite numbers of an element; () where it is absent, empty or not numbers."""
    try:
        value = holder.get(keyword) if holder is not None else None
        if value is None or isinstance(value, (str, bytes)):
            return ()
        numbers = tuple(float(number) for number in (value if hasattr(value, "__iter__") else (value,)))
    except (ValueError, TypeError, OverflowError):
        return ()
    return numbers if all(math.isfinite(number) for number in numbers) else ()


def integer(holder: Dataset | None, keyword: str, default: Any) -> Any:
    """An integer element, `default` where it is absent or not a number."""
    numbers = finite_numbers(holder, keyword)
    return int(numbers[0]) if numbers else default


def sequence_item(holder: Dataset | None, keyword: str, index: int) -> Dataset | None:
    """Item `index` of a sequence; None where there is none."""
    sequence = holder.get(keyword) if holder is not None else None
    return sequence[index] if sequence is not None and len(sequence) > index else None
