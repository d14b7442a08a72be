"""Attributes of an image whose values may be damaged: what is no usable value counts as absent."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

import worker.dicom.character_sets  # noqa: F401 - text of senders is decoded here

_tag, _vr = lru_cache(maxsize=256)(Tag), lru_cache(maxsize=256)(dictionary_VR)  # of a keyword; of a standard tag

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
    tag = _tag(keyword)
    if holder is None or tag not in holder:
        return ()
    plain = _plain_numbers(holder.get_item(tag))
    if plain is not None:
        return plain
    try:
        value = holder[tag].value
        if value is None or isinstance(value, (str, bytes)):
            return ()
        numbers = tuple(float(number) for number in (value if hasattr(value, "__iter__") else (value,)))
    except (ValueError, TypeError, OverflowError):
        return ()
    return numbers if all(math.isfinite(number) for number in numbers) else ()


def _plain_numbers(element: DataElement | RawDataElement) -> tuple[float, ...] | None:
    """The numbers of an element that pydicom has not decoded yet, read from its bytes, which is faster.

    None where pydicom must decide: the element is decoded, its VR is not the standard's, or its value is unusual.
    """
    if not isinstance(element, RawDataElement) or not element.is_little_endian or not element.value:
        return None
    vr = _vr(element.tag)
    if element.VR not in (vr, None):
        return None
    try:
        if vr == "US" and len(element.value) == 2:
            return (float(int.from_bytes(element.value, "little")),)
        if vr in ("DS", "IS"):
            numbers = tuple(float(text) for text in element.value.decode("ascii").rstrip("\0").split("\\"))
            is_plain = all(math.isfinite(number) and (vr == "DS" or number.is_integer()) for number in numbers)
            return numbers if is_plain else None
    except ValueError:
        pass
    return None


def integer(holder: Dataset | None, keyword: str, default: Any) -> Any:
    """An integer element, `default` where it is absent or not a number."""
    numbers = finite_numbers(holder, keyword)
    return int(numbers[0]) if numbers else default


def sequence_item(holder: Dataset | None, keyword: str, index: int) -> Dataset | None:
    """Item `index` of a sequence; None where there is none."""
    tag = _tag(keyword)
    sequence = holder[tag].value if holder is not None and tag in holder else None
    return sequence[index] if sequence is not None and len(sequence) > index else None
