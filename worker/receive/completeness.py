"""What a series lacks, as far as its headers and its sender's count tell. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Any

_SAME_PLACE_MM = 0.01
_PARALLEL = 0.999  # cosine between the normals of one stack
_SMALLEST_GAP = 1.5  # spacings: half a slice more than a slice
_FEWEST_PLACES = 4  # of which an even distance is no accident
_ALIKE = 0.05  # of a length: what scanners and rounding make of the same one


def missing_part(attributes: Sequence[Mapping[str, Any]], expected: int | None) -> str | None:
    """One phrase of what is missing, None where nothing is known to be.

    `attributes` as `inbound.describe.describe` makes them, one an instance; `expected` is how many instances the
    sender has of the series, None where it was not asked or did not say.
    """
    found = []
    if expected is not None and expected > len(attributes):
        found.append(f"{len(attributes)} of the {expected} images that the sender has")
    gaps, slices = missing_slices(attributes)
    if gaps:
        shown = "a gap" if gaps == 1 else f"{gaps} gaps"
        found.append(f"{shown} in slice position, about {slices} slice{'s' if slices > 1 else ''}")
    thinned = thinned_out(attributes)
    if thinned is not None:
        found.append(thinned)
    return "; ".join(found) or None


def missing_slices(attributes: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(gaps, slices that they would hold) between slices by ImagePositionPatient along the normal (PS3.3 C.7.6.2.1.1).

    A gap is more than half a slice wider than the usual spacing; several images at one place are none. (0, 0) where
    not every instance says its place, where they are not parallel, and for fewer than three places.
    """
    stack = _stack(attributes)
    steps = [b.position - a.position for a, b in pairwise(stack)]
    if len(steps) < 2:
        return 0, 0
    usual = median_low(steps)
    lacking = [round(step / usual) - 1 for step in steps if step > _SMALLEST_GAP * usual]
    return len(lacking), sum(max(1, one) for one in lacking)


def thinned_out(attributes: Sequence[Mapping[str, Any]]) -> str | None:
    """A phrase for a series of which, as it seems, one slice in k came, evenly: no distance in it stands out.

    Wide distances and uneven numbers have honest causes too, so all that is known must say the same k. Known may be
    - Spacing Between Slices (0018,0088), which goes k times into the distance. A reformatted series may keep that of
      its source, and some senders mean the gap, not the distance of the centres: then gap and thickness are one step.
    - Instance Numbers in steps of k. Echoes that were split into series have them too; without a spacing the
      thickness must therefore leave room for the slices between.
    """
    stack = _stack(attributes)
    if len(stack) < _FEWEST_PLACES:
        return None
    steps = [b.position - a.position for a, b in pairwise(stack)]
    usual = median_low(steps)
    if not all(_alike(one, usual) for one in steps if one <= _SMALLEST_GAP * usual):
        return None
    spacing, thickness, stride = _common(attributes, "spacing"), _common(attributes, "thickness"), _stride(stack, usual)
    if spacing is not None:
        fold = round(usual / spacing)
        is_a_gap = stride is None and thickness is not None and _alike(usual, thickness + spacing)
        if fold < 2 or not _alike(usual, fold * spacing) or is_a_gap or stride not in (None, fold):
            return None
        said = f"slices lie {usual:.3g} mm apart, {spacing:.3g} mm by their header"
    elif stride is not None and stride > 1 and thickness is not None and usual > stride * thickness * (1 - _ALIKE):
        fold = stride
        said = f"slices of {thickness:.3g} mm lie {usual:.3g} mm apart"
    else:
        return None
    if stride is not None:
        said += f", and instance numbers go in steps of {stride}"
    return f"as it seems {'every second slice' if fold == 2 else f'{fold - 1} of every {fold} slices'}: {said}"


# --- the stack -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Place:
    """Where images lie along the normal, in mm, and their numbers; `unnumbered` where one has none."""

    position: float
    numbers: set[float]
    unnumbered: bool = False


def _stack(attributes: Sequence[Mapping[str, Any]]) -> list[_Place]:
    """The places in their order; none where an instance does not say its own, and where planes are not parallel."""
    places = [one.get("place") for one in attributes]
    if not places or not all(places):
        return []
    normals = [_normal(place) for place in places]
    if any(_dot(one, normals[0]) < _PARALLEL for one in normals):
        return []
    along = [(_dot(one["place"][6:], normals[0]), one.get("number")) for one in attributes]
    found: list[_Place] = []
    last = -math.inf
    for position, number in sorted(along, key=lambda one: one[0]):
        if position - last > _SAME_PLACE_MM:
            found.append(_Place(position, set()))
        if number is None:
            found[-1].unnumbered = True
        else:
            found[-1].numbers.add(number)
        last = position
    return found


def _stride(stack: Sequence[_Place], usual: float) -> int | None:
    """How many numbers on the next slice is: 1 where none is left out or they follow no rule, None where they tell
    nothing."""
    numbers = set[float]().union(*(one.numbers for one in stack))
    if any(one.unnumbered for one in stack) or len(numbers) == 1:
        return None
    if max(numbers) - min(numbers) < len(numbers):
        return 1  # all of them came, in whatever order they were acquired
    neighbours = [(a, b) for a, b in pairwise(stack) if _alike(b.position - a.position, usual)]
    steps = {abs(min(b.numbers) - min(a.numbers)) for a, b in neighbours}
    images = {len(one.numbers) for one in stack}
    if len(steps) != 1 or len(images) != 1:
        return 1
    [step], [together] = steps, images
    # The echoes of a slice have neighbouring numbers, or each echo has its own run of them.
    in_a_row = all(max(one.numbers) - min(one.numbers) == together - 1 for one in stack)
    return int(step // together) if in_a_row else int(step)


def _common(attributes: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """A length that all instances give alike, None where they do not."""
    values = [one.get(name) or 0.0 for one in attributes]
    return values[0] if values[0] > 0 and all(_alike(one, values[0]) for one in values) else None


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= _ALIKE * other


def _normal(place: Any) -> tuple[float, float, float]:
    """The unit normal of an ImageOrientationPatient; (0, 0, 0) for one whose directions are no plane."""
    a, b, c, d, e, f = place[:6]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    length = math.hypot(*normal)
    return (normal[0] / length, normal[1] / length, normal[2] / length) if length else (0.0, 0.0, 0.0)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))
