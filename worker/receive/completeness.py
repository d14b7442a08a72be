"""What a series lacks, as far as its headers and its sender's image count show. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Any

from worker.wording import counted

_SAME_POSITION_MM = 0.01
_PARALLEL = 0.999  # cosine between the normals of one stack
_SMALLEST_GAP = 1.5  # spacings: half a slice more than a slice
_FEWEST_POSITIONS = 4  # with fewer, an even distance may be an accident
_TOLERANCE = 0.05  # of a length: what scanners and rounding make of equal lengths


def describe_missing(
    attributes: Sequence[Mapping[str, Any]],
    expected: int | None,
    broken: Mapping[str, int] | None = None,
    refused: Mapping[tuple[str, str], int] | None = None,
) -> str | None:
    """What is missing, as a phrase; None where nothing is known to be missing.

    `attributes` are those of the instances, as `storage.acceptance.read_instance` makes them; `expected` is how many
    instances of the series the sender has, None where it was not queried or did not answer. `broken`: how many of its
    images came over associations that broke off, by their end; `refused`: how many were refused, by status and reason.
    Neither matters where the sender has no more images than these.
    """
    phrases = []
    if expected is not None and expected <= len(attributes):
        broken = refused = None
    if broken:
        number, ends = sum(broken.values()), " and ".join(sorted(broken))
        phrases.append(f"its transfer broke off after {number} image{'s' if number > 1 else ''} (association {ends})")
    if refused:
        number = sum(refused.values())
        reasons = ", ".join(f"{status} {reason}" for status, reason in sorted(refused))
        phrases.append(f"{counted(number, 'image')} {'was' if number == 1 else 'were'} refused ({reasons})")
    if expected is not None and expected > len(attributes):
        phrases.append(f"{len(attributes)} of the {expected} images that the sender has")
    gaps, slices = missing_slices(attributes)
    if gaps:
        shown = "a gap" if gaps == 1 else f"{gaps} gaps"
        phrases.append(f"{shown} in slice position, about {counted(slices, 'slice')}")
    omitted = evenly_omitted(attributes)
    if omitted is not None:
        phrases.append(omitted)
    return "; ".join(phrases) or None


def missing_slices(attributes: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(gaps, slices that fit into them) between slices by ImagePositionPatient along the normal (PS3.3 C.7.6.2.1.1).

    A gap is more than half a slice wider than the usual spacing; several images at the same position are no gap.
    (0, 0) where an instance has no position, where planes are not parallel, and for fewer than three positions.
    """
    stack = _stack(attributes)
    steps = [b.position - a.position for a, b in pairwise(stack)]
    if len(steps) < 2:
        return 0, 0
    usual = median_low(steps)
    lacking = [round(step / usual) - 1 for step in steps if step > _SMALLEST_GAP * usual]
    return len(lacking), sum(max(1, slices) for slices in lacking)


def evenly_omitted(attributes: Sequence[Mapping[str, Any]]) -> str | None:
    """A phrase for a series of which apparently one slice in k arrived, evenly, so that no distance in it stands out.

    Wide distances and uneven numbers have harmless causes too, so everything that is known must give the same k.
    Evidence is
    - Spacing Between Slices (0018,0088), which fits k times into the distance. A reformatted series may retain that of
      its source, and some senders mean the gap, not the distance of the centres: then gap and thickness are one step.
    - Instance Numbers in steps of k. Echoes that were split into series have them too; without a spacing the
      thickness must therefore leave room for the slices between.
    """
    stack = _stack(attributes)
    if len(stack) < _FEWEST_POSITIONS:
        return None
    steps = [b.position - a.position for a, b in pairwise(stack)]
    usual = median_low(steps)
    if not all(_is_close(step, usual) for step in steps if step <= _SMALLEST_GAP * usual):
        return None
    spacing, thickness = _common_length(attributes, "spacing"), _common_length(attributes, "thickness")
    stride = _stride(stack, usual)
    if spacing is not None:
        fold = round(usual / spacing)
        is_a_gap = stride is None and thickness is not None and _is_close(usual, thickness + spacing)
        if fold < 2 or not _is_close(usual, fold * spacing) or is_a_gap or stride not in (None, fold):
            return None
        evidence = f"slices lie {usual:.3g} mm apart, {spacing:.3g} mm by their header"
    elif stride is not None and stride > 1 and thickness is not None and usual > stride * thickness * (1 - _TOLERANCE):
        fold = stride
        evidence = f"slices of {thickness:.3g} mm lie {usual:.3g} mm apart"
    else:
        return None
    if stride is not None:
        evidence += f", and instance numbers go in steps of {stride}"
    omitted = "every second slice" if fold == 2 else f"{fold - 1} of every {fold} slices"
    return f"apparently {omitted}: {evidence}"


# --- the stack -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _SlicePosition:
    """A position along the normal, in mm, and its images' instance numbers; `unnumbered` where a number is missing."""

    position: float
    numbers: set[float]
    unnumbered: bool = False


def _stack(attributes: Sequence[Mapping[str, Any]]) -> list[_SlicePosition]:
    """The slice positions in order; none where an instance has no position, and where planes are not parallel."""
    planes = [instance.get("place") for instance in attributes]
    if not planes or not all(planes):
        return []
    normals = [_normal(plane) for plane in planes]
    if any(_dot(normal, normals[0]) < _PARALLEL for normal in normals):
        return []
    images = [(_dot(instance["place"][6:], normals[0]), instance.get("number")) for instance in attributes]
    stack: list[_SlicePosition] = []
    last = -math.inf
    for position, number in sorted(images, key=lambda image: image[0]):
        if position - last > _SAME_POSITION_MM:
            stack.append(_SlicePosition(position, set()))
        if number is None:
            stack[-1].unnumbered = True
        else:
            stack[-1].numbers.add(number)
        last = position
    return stack


def _stride(stack: Sequence[_SlicePosition], usual: float) -> int | None:
    """By how much the instance number of the next slice is higher: 1 where no number is left out or they follow no
    rule, None where they show nothing."""
    numbers = set[float]().union(*(slice_.numbers for slice_ in stack))
    if any(slice_.unnumbered for slice_ in stack) or len(numbers) == 1:
        return None
    if max(numbers) - min(numbers) < len(numbers):
        return 1  # all of them arrived, in whatever order they were acquired
    neighbours = [(a, b) for a, b in pairwise(stack) if _is_close(b.position - a.position, usual)]
    steps = {abs(min(b.numbers) - min(a.numbers)) for a, b in neighbours}
    images = {len(slice_.numbers) for slice_ in stack}
    if len(steps) != 1 or len(images) != 1:
        return 1
    [step], [images_per_slice] = steps, images
    # The echoes of a slice have neighbouring numbers, or each echo has its own run of them.
    in_a_row = all(max(slice_.numbers) - min(slice_.numbers) == images_per_slice - 1 for slice_ in stack)
    return int(step // images_per_slice) if in_a_row else int(step)


def _common_length(attributes: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """A length on which all instances agree, None where they do not."""
    lengths = [instance.get(name) or 0.0 for instance in attributes]
    return lengths[0] if lengths[0] > 0 and all(_is_close(length, lengths[0]) for length in lengths) else None


def _is_close(length: float, reference: float) -> bool:
    return abs(length - reference) <= _TOLERANCE * reference


def _normal(plane: Any) -> tuple[float, float, float]:
    """The unit normal of an ImageOrientationPatient; (0, 0, 0) where its directions span no plane."""
    a, b, c, d, e, f = plane[:6]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    length = math.hypot(*normal)
    return (normal[0] / length, normal[1] / length, normal[2] / length) if length else (0.0, 0.0, 0.0)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))
