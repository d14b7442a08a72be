from __future__ import annotations

from typing import Any

import pytest

from worker.receive.completeness import describe_missing, evenly_omitted, missing_slices

AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
# A sagittal plane turned by 30 degrees about the head's axis: x to the left, y to posterior, z to the head.
OBLIQUE = [-0.5, 0.866025, 0.0, 0.0, 0.0, -1.0]


def _at(*positions: float, orientation: list[float] | None = None) -> list[dict[str, Any]]:
    normal = [0.0, 0.0, 1.0] if orientation is None else [-0.866025, -0.5, 0.0]
    return [{"place": (orientation or AXIAL) + [position * axis for axis in normal]} for position in positions]


@pytest.mark.parametrize("orientation", [None, OBLIQUE])
@pytest.mark.parametrize(
    ("positions", "found"),
    [
        ([0, 5, 10, 15], (0, 0)),
        ([15, 0, 10, 5], (0, 0)),  # in any order
        ([0, 5, 15, 20, 25], (1, 1)),
        ([0, 5, 10, 25, 30, 35, 45], (2, 3)),
        ([0, 5, 10, 17], (0, 0)),  # less than half a slice too wide
        ([0, 5, 10, 18], (1, 1)),
        ([0, 0, 5, 5, 10, 10], (0, 0)),  # two echoes
        ([0, 0, 5, 5, 15, 15, 20, 20], (1, 1)),
        ([0, 5, 10.004, 15], (0, 0)),  # as scanners round
        ([0, 40], (0, 0)),  # too few to know a spacing
        ([], (0, 0)),
    ],
)
def test_gaps_are_found_along_the_normal(
    positions: list[float], found: tuple[int, int], orientation: list[float] | None
) -> None:
    assert missing_slices(_at(*positions, orientation=orientation)) == found


def test_images_without_a_place_or_in_several_planes_have_no_gaps() -> None:
    series = _at(0, 5, 15, 20)
    assert missing_slices([*series, {"place": None}]) == (0, 0)
    assert missing_slices([*series, {}]) == (0, 0)  # received by an earlier version
    assert missing_slices(series + _at(0, 5, 15, orientation=OBLIQUE)) == (0, 0)
    assert missing_slices([{"place": [0.0] * 9}] * 4) == (0, 0)


def test_what_is_missing_is_one_phrase() -> None:
    assert describe_missing(_at(0, 5, 10), None) is None
    assert describe_missing(_at(0, 5, 10), 3) is None
    assert describe_missing(_at(0, 5, 10), 2) is None  # the sender may have lost some
    assert describe_missing(_at(0, 5, 10), 4) == "3 of the 4 images that the sender has"
    assert describe_missing(_at(0, 5, 15, 20), 5) == (
        "4 of the 5 images that the sender has; a gap in slice position, about 1 slice"
    )
    assert describe_missing(_at(0, 5, 20, 25, 35, 40), None) == "2 gaps in slice position, about 3 slices"


def _stack(step: float, numbers: list[int | None], **lengths: float) -> list[dict[str, Any]]:
    """Slices `step` mm apart with these numbers, in their order."""
    placed = _at(*(step * place for place in range(len(numbers))))
    return [
        image | lengths | ({} if n is None else {"number": float(n)}) for image, n in zip(placed, numbers, strict=True)
    ]


THICK = {"thickness": 5.0}
SPACED = {"spacing": 6.0, "thickness": 5.0}
EVEN = [2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("series", "said"),
    [
        (_stack(12, [1, 3, 5, 7], **SPACED), "every second slice: slices lie 12 mm apart, 6 mm by their header, and"),
        (_stack(12, [9, 7, 5, 3, 1], **SPACED), "and instance numbers go in steps of 2"),
        (_stack(17.98, [1, 4, 7, 10], **SPACED), "2 of every 3 slices: slices lie 18 mm apart"),
        (_stack(12, [None] * 5, **SPACED), "every second slice: slices lie 12 mm apart, 6 mm by their header"),
        (_stack(12, [1] * 5, **SPACED), "every second slice"),  # a sender that numbers nothing
        (_stack(10, EVEN, spacing=5.0, thickness=5.0), "every second slice"),  # slices that touch
        (_stack(12, EVEN, **THICK), "every second slice: slices of 5 mm lie 12 mm apart, and instance numbers"),
        # Two echoes at each place: numbered by slice, and by echo.
        (_stack(12, [1, 5, 9, 13], **SPACED) + _stack(12, [2, 6, 10, 14], **SPACED), "in steps of 2"),
        (_stack(12, [1, 3, 5, 7], **SPACED) + _stack(12, [9, 11, 13, 15], **SPACED), "in steps of 2"),
    ],
)
def test_a_series_without_every_second_slice_is_noticed(series: list[dict[str, Any]], said: str) -> None:
    for images in (series, series[::-1]):
        assert said in str(evenly_omitted(images))
        assert missing_slices(images) == (0, 0)
        assert str(describe_missing(images, None)).startswith("apparently ")


@pytest.mark.parametrize(
    "series",
    [
        _stack(6, [1, 2, 3, 4, 5], **SPACED),
        _stack(6, [1, 4, 2, 5, 3], **SPACED),  # numbered as acquired, interleaved
        _stack(6, EVEN, **SPACED),  # one echo of two, split off: the spacing is what it should be
        _stack(6, EVEN, **THICK),  # the same without a spacing
        _stack(12, [1, 2, 3, 4, 5], **SPACED),  # reformatted, with the spacing of the source
        _stack(12, [1, 2, 3, 4, 5], **THICK),  # wide gaps that were meant
        _stack(12, [None] * 5, **THICK),
        _stack(6, [None] * 5, spacing=1.0, thickness=5.0),  # the gap, not the distance
        _stack(6, EVEN, spacing=1.0, thickness=5.0),
        _stack(15, EVEN, **SPACED),  # no whole number of spacings
        _stack(18, EVEN, **SPACED),  # numbers and spacing contradict each other
        _stack(12, [1, 3, 5, 11, 13], **SPACED),  # numbers without a rule
        _stack(12, [2, 4, 6], **SPACED),  # too few
        _stack(12, EVEN),  # nothing to compare with
        _stack(5, [1, 2, 3, 4], thickness=5.0)
        + _stack(5, [5, 6, 7, 8], thickness=5.0),  # two echoes, one after another
        [*_stack(12, EVEN[:-1], **SPACED), {"place": None}],
        [],
    ],
)
def test_wide_or_unevenly_numbered_series_with_an_honest_cause_are_not_called_incomplete(
    series: list[dict[str, Any]],
) -> None:
    assert evenly_omitted(series) is None


def test_a_gap_in_a_series_without_every_second_slice_is_told_too() -> None:
    series = [image for image in _stack(12, [1, 3, 5, 7, 9, 11], **SPACED) if image["number"] != 5]
    assert str(describe_missing(series, 12)).split("; ")[:2] == [
        "5 of the 12 images that the sender has",
        "a gap in slice position, about 1 slice",
    ]
    assert "every second slice" in str(describe_missing(series, 12))


def test_a_transfer_that_broke_off_and_refused_images_are_named_unless_the_sender_has_no_more() -> None:
    broken, refused = {"lost": 2, "aborted": 1}, {("0xA900", "uid-mismatch"): 4, ("0xA700", "no-space"): 1}
    expected = (
        "its transfer broke off after 3 images (association aborted and lost); "
        "5 images were refused (0xA700 no-space, 0xA900 uid-mismatch)"
    )
    assert describe_missing(_at(0, 5, 10), None, broken, refused) == expected
    assert (describe_missing(_at(0, 5, 10), 4, broken, refused) or "").startswith(expected)
    assert describe_missing(_at(0, 5, 10), 3, broken, refused) is None
    assert describe_missing(_at(0), None, {"lost": 1}, {}) == "its transfer broke off after 1 image (association lost)"
