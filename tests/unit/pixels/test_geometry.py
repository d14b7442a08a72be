from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.errors import NotAssessable
from worker.pixels.decode import DecodedFrame
from worker.pixels.geometry import Edges, Plane, orient, stack

# A volume in patient space, indexed [x to the left, y to posterior, z to the head], without any symmetry.
VOLUME = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)
AXES = (np.array([1, 0, 0]), np.array([0, 1, 0]), np.array([0, 0, 1]))


def frame(pixels: Any = None, **changes: Any) -> DecodedFrame:
    values: dict[str, Any] = {
        "path": Path("a"),
        "sop_class_uid": "1.2",
        "sop_instance_uid": "1.3",
        "modality": "MR",
        "instance_number": 0,
        "frame_number": None,
        "pixels": np.zeros((4, 3), np.uint16) if pixels is None else pixels,
        "slope": 1.0,
        "intercept": 0.0,
        "spacing": (1.0, 1.0),
        "orientation": None,
        "position": None,
    }
    return DecodedFrame(**values | changes)


def scan(row: int, column: int, row_sign: int, column_sign: int, direction: int) -> list[DecodedFrame]:
    """The volume as slices whose columns run along patient axis `row` and rows along `column`, signed."""
    normal = 3 - row - column
    frames = []
    for number, index in enumerate(range(VOLUME.shape[normal])[::direction]):
        pixels = np.moveaxis(VOLUME, (normal, column, row), (0, 1, 2))[index][::column_sign, ::row_sign]
        position = np.zeros(3)
        position[normal] = index
        position[row] = 0 if row_sign > 0 else VOLUME.shape[row] - 1
        position[column] = 0 if column_sign > 0 else VOLUME.shape[column] - 1
        orientation = (*(row_sign * AXES[row]), *(column_sign * AXES[column]))
        frames.append(
            frame(
                pixels,
                spacing=(column + 1.0, row + 1.0),
                orientation=tuple(float(one) for one in orientation),
                position=tuple(float(one) for one in position),
                instance_number=number,
            )
        )
    return frames


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)), ids=str)
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3), 2)), ids=str)
def test_every_orientation_is_shown_alike(axes: tuple[int, int], signs: tuple[int, int, int]) -> None:
    slices = stack(scan(*axes, *signs))
    shown = np.stack([one.pixels for one in slices])
    plane = {(0, 1): Plane.AXIAL, (0, 2): Plane.CORONAL, (1, 2): Plane.SAGITTAL}[min(axes), max(axes)]
    expected = {
        # rows to posterior, columns to the left, slices to the head
        Plane.AXIAL: VOLUME.transpose(2, 1, 0),
        # rows to the feet, columns to the left, slices to posterior
        Plane.CORONAL: VOLUME.transpose(1, 2, 0)[:, ::-1],
        # rows to the feet, columns to posterior, slices to the left
        Plane.SAGITTAL: VOLUME.transpose(0, 2, 1)[:, ::-1],
    }[plane]
    spacing = {Plane.AXIAL: (2, 1), Plane.CORONAL: (3, 1), Plane.SAGITTAL: (3, 2)}[plane]
    np.testing.assert_array_equal(shown, expected)
    assert {one.plane for one in slices} == {plane}
    assert {one.spacing for one in slices} == {spacing}
    assert [one.position_mm for one in slices] == sorted(one.position_mm or 0 for one in slices)


def test_oblique_goes_to_the_nearest_plane() -> None:
    tilt = np.radians(30)
    cosines = (1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(np.sin(tilt)))
    (shown,) = stack([frame(orientation=cosines, position=(0.0, 0.0, 0.0))])
    assert shown.plane is Plane.AXIAL


def test_without_geometry_nothing_is_turned_and_instance_numbers_decide() -> None:
    frames = [frame(np.full((4, 3), number), instance_number=number) for number in (2, 0, 1)]
    slices = stack(frames)
    assert [int(one.pixels[0, 0]) for one in slices] == [0, 1, 2]
    assert {(one.plane, one.position_mm) for one in slices} == {(None, None)}


def test_orientation_without_positions_turns_and_instance_numbers_decide() -> None:
    feet_up = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    pixels = np.arange(12).reshape(4, 3)
    slices = stack([frame(pixels, orientation=feet_up, instance_number=number) for number in (1, 0)])
    assert (slices[0].pixels == pixels[::-1]).all()
    assert [one.source.instance_number for one in slices] == [0, 1]
    assert slices[0].position_mm is None


AXIAL, CORONAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize(
    ("reason", "second"),
    [
        ("mixed-sizes", {"pixels": np.zeros((5, 3), np.uint16)}),
        ("mixed-sizes", {"spacing": (1.0, 1.1)}),
        ("mixed-planes", {"orientation": CORONAL}),
        ("duplicate-positions", {"position": (7.0, 0.0, 0.0)}),
    ],
)
def test_what_is_no_stack_is_refused(reason: str, second: dict[str, Any]) -> None:
    first = {"orientation": AXIAL, "position": (0.0, 0.0, 0.0)}
    with pytest.raises(NotAssessable) as raised:
        stack([frame(**first), frame(**first | {"position": (0.0, 0.0, 1.0)} | second)])
    assert raised.value.reason == reason


def test_spacing_that_differs_by_rounding_is_one_spacing() -> None:
    assert len(stack([frame(spacing=(1.0, 1.0)), frame(spacing=(1.0, 1.001))])) == 2


def oriented(*cosines: float) -> Edges | None:
    return orient(frame(orientation=tuple(map(float, cosines)), position=(0.0, 0.0, 0.0))).edges


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=2)), ids=str)
@pytest.mark.parametrize(
    ("row", "column", "edges"),
    [(0, 1, Edges("R", "L", "A", "P")), (0, 2, Edges("R", "L", "H", "F")), (1, 2, Edges("A", "P", "H", "F"))],
)
def test_edges_are_those_of_the_plane_however_it_was_stored(
    row: int, column: int, edges: Edges, signs: tuple[int, int]
) -> None:
    for first, second in ((row, column), (column, row)):
        assert oriented(*(signs[0] * AXES[first]), *(signs[1] * AXES[second])) == edges


def test_edges_of_an_oblique_slice_name_the_nearest_axis_first() -> None:
    tilted = math.radians(30)
    assert oriented(1, 0, 0, 0, math.cos(tilted), -math.sin(tilted)) == Edges("R", "L", "AH", "PF")
    slightly = math.radians(8)
    assert oriented(1, 0, 0, 0, math.cos(slightly), -math.sin(slightly)) == Edges("R", "L", "A", "P")


def test_no_edge_is_named_without_an_orientation() -> None:
    assert orient(frame()).edges is None
    assert [item.edges for item in stack([frame(), frame(orientation=(1.0, 0, 0, 0, 1, 0))])] == [None, None]
