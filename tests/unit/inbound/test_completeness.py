from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.testbed.instances import mr_instance, received
from worker.inbound.completeness import missing_part, missing_slices
from worker.inbound.instances import describe, instance_path

AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
# A sagittal plane turned by 30 degrees about the head's axis: x to the left, y to posterior, z to the head.
OBLIQUE = [-0.5, 0.866025, 0.0, 0.0, 0.0, -1.0]


def _at(*positions: float, orientation: list[float] | None = None) -> list[dict[str, Any]]:
    normal = [0.0, 0.0, 1.0] if orientation is None else [-0.866025, -0.5, 0.0]
    return [{"place": (orientation or AXIAL) + [one * part for part in normal]} for one in positions]


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
    assert missing_part(_at(0, 5, 10), None) is None
    assert missing_part(_at(0, 5, 10), 3) is None
    assert missing_part(_at(0, 5, 10), 2) is None  # the sender may have lost some
    assert missing_part(_at(0, 5, 10), 4) == "3 of the 4 images that the sender has"
    assert missing_part(_at(0, 5, 15, 20), 5) == (
        "4 of the 5 images that the sender has; a gap in slice position, about 1 slice"
    )
    assert missing_part(_at(0, 5, 20, 25, 35, 40), None) == "2 gaps in slice position, about 3 slices"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, [1, 0, 0, 0, 1, 0, 0, 0, 10]),
        ({"ImagePositionPatient": None}, None),
        ({"ImagePositionPatient": [0, 0]}, None),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 1e9]}, None),
    ],
)
def test_the_receiver_keeps_where_a_slice_lies(changes: dict[str, Any], place: list[float] | None) -> None:
    assert describe(received(mr_instance(2, **changes)), instance_path).attributes["place"] == place


@pytest.mark.parametrize("text", [b"nan", b"inf", b"1e999", b"abc"])
def test_a_place_that_is_no_number_is_none(text: bytes) -> None:
    """NaN above all: PostgreSQL would not take the row."""
    request = received(mr_instance(1, ImagePositionPatient=[0, 0, 123456]))
    damaged = request.encoded.replace(b"123456.0", text.ljust(8))
    assert damaged != request.encoded
    assert describe(replace(request, encoded=damaged), instance_path).attributes["place"] is None
