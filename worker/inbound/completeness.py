"""What a series lacks, as far as its headers and its sender's count tell. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median_low
from typing import Any

_SAME_PLACE_MM = 0.01
_PARALLEL = 0.999  # cosine between the normals of one stack
_SMALLEST_GAP = 1.5  # spacings: half a slice more than a slice


def missing_part(attributes: Sequence[Mapping[str, Any]], expected: int | None) -> str | None:
    """One phrase of what is missing, None where nothing is known to be.

    `attributes` as `inbound.instances.describe` makes them, one an instance; `expected` is how many instances the
    sender has of the series, None where it was not asked or did not say.
    """
    found = []
    if expected is not None and expected > len(attributes):
        found.append(f"{len(attributes)} of the {expected} images that the sender has")
    gaps, slices = missing_slices(attributes)
    if gaps:
        shown = "a gap" if gaps == 1 else f"{gaps} gaps"
        found.append(f"{shown} in slice position, about {slices} slice{'s' if slices > 1 else ''}")
    return "; ".join(found) or None


def missing_slices(attributes: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(gaps, slices that they would hold) between slices by ImagePositionPatient along the normal (PS3.3 C.7.6.2.1.1).

    A gap is more than half a slice wider than the usual spacing; several images at one place are none. (0, 0) where
    not every instance says its place, where they are not parallel, and for fewer than three places.
    """
    places = [one.get("place") for one in attributes]
    if not all(places):
        return 0, 0
    normals = [_normal(place) for place in places]
    if any(_dot(one, normals[0]) < _PARALLEL for one in normals):
        return 0, 0
    positions = sorted(_dot(place[6:], normals[0]) for place in places if place)
    steps = [b - a for a, b in pairwise(positions) if b - a > _SAME_PLACE_MM]
    if len(steps) < 2:
        return 0, 0
    usual = median_low(steps)
    lacking = [round(step / usual) - 1 for step in steps if step > _SMALLEST_GAP * usual]
    return len(lacking), sum(max(1, one) for one in lacking)


def _normal(place: Any) -> tuple[float, float, float]:
    """The unit normal of an ImageOrientationPatient; (0, 0, 0) for one whose directions are no plane."""
    a, b, c, d, e, f = place[:6]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    length = math.hypot(*normal)
    return (normal[0] / length, normal[1] / length, normal[2] / length) if length else (0.0, 0.0, 0.0)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))
