"""3-D series of the MNI head, acquired in any plane, become the same axial slices: those of the head itself."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tests.testbed.phantom import HEAD_CENTRE_MM, MASS_CENTRE_MM, PLANES, head_volume
from worker.errors import NotAssessable
from worker.inference.reformat import Reformatted, reformat
from worker.pixels.decode import DecodedFrame
from worker.pixels.geometry import Edges, OrientedFrame, Plane, stack

SPACING, BELOW = 5.0, 2.5


@dataclass(frozen=True)
class Acquisition:
    """A 3-D series of the head with a mass on the patient's right; `tilts` in degrees about x, y and z."""

    plane: str = "axial"
    tilts: tuple[float, float, float] = (0, 0, 0)
    flipped: bool = False
    slices: int = 110
    rows: int = 116
    columns: int = 112
    pixel_mm: tuple[float, float] = (2.0, 2.0)
    slice_mm: float = 1.9

    def directions(self) -> tuple[Any, Any, Any]:
        row, column = (np.array(vector, float) for vector in PLANES[self.plane])
        if self.flipped:
            row, column = -column, -row
        turn = np.eye(3)
        for axis, degrees in enumerate(self.tilts):
            one, other = (k for k in range(3) if k != axis)
            about = np.eye(3)
            about[one, one] = about[other, other] = np.cos(np.deg2rad(degrees))
            about[other, one] = np.sin(np.deg2rad(degrees))
            about[one, other] = -about[other, one]
            turn = turn @ about
        return turn @ row, turn @ column, turn @ np.cross(row, column)

    def frames(self, keep: Any = slice(None), slopes: Any = None) -> list[OrientedFrame]:
        row, column, normal = self.directions()
        across = row * self.pixel_mm[1] * (np.arange(self.columns) - (self.columns - 1) / 2)[:, None]
        down = column * self.pixel_mm[0] * (np.arange(self.rows) - (self.rows - 1) / 2)[:, None]
        frames = []
        for index in range(self.slices):
            middle = HEAD_CENTRE_MM + normal * self.slice_mm * (index - (self.slices - 1) / 2)
            points = middle + down[:, None] + across[None]
            slope = 1.0 if slopes is None else slopes[index]
            frames.append(
                DecodedFrame(
                    Path(f"{index}.dcm"),
                    "",
                    f"1.{index}",
                    "MR",
                    index,
                    None,
                    np.rint(1000 * _head(points) / slope).astype(np.uint16),
                    slope,
                    0.0,
                    self.pixel_mm,
                    (*row, *column),
                    tuple(points[0, 0]),
                )
            )
        return stack(frames[keep])


def _head(points: Any) -> Any:
    """The head's brightness at points [..., 3] in patient coordinates."""
    voxels = (98 - points[..., 0], 134 - points[..., 1], 72 + points[..., 2])
    return np.clip(ndimage.map_coordinates(head_volume(mass=True), voxels, order=1, prefilter=False), 0, None)


def _truth(item: OrientedFrame) -> Any:
    """What the slice shows: the mean of the head over its thickness."""
    x, y, z = item.source.position or ()
    rows, columns = item.pixels.shape
    points = np.empty((rows, columns, 3))
    points[..., 0] = x + item.spacing[1] * np.arange(columns)
    points[..., 1] = (y + item.spacing[0] * np.arange(rows))[:, None]
    mean = np.zeros((rows, columns))
    for depth in (-2, -1, 0, 1, 2):
        points[..., 2] = z + depth
        mean += _head(points) / 5
    return 1000 * mean


def _inner(made: Reformatted) -> list[OrientedFrame]:
    """The slices within the brain, which all acquisitions hold."""
    inner = [item for item in made.slices if -25 <= (item.position_mm or 0) <= 65]
    assert len(inner) == 18
    return inner


def _values(item: OrientedFrame) -> Any:
    return item.pixels * item.source.slope + item.source.intercept


def _reformat(acquisition: Acquisition, **arguments: Any) -> Reformatted:
    made = reformat(acquisition.frames(**arguments), SPACING, BELOW)
    assert made is not None
    return made


ACQUISITIONS = {
    "axial": Acquisition(),
    "sagittal": Acquisition("sagittal", rows=116, columns=120, slices=100),
    "coronal": Acquisition("coronal", slices=120, rows=116, columns=100),
    "axial from the head": Acquisition(flipped=True),
    "sagittal on its side": Acquisition("sagittal", flipped=True),
    "oblique axial": Acquisition(tilts=(18, 10, 6)),
    "oblique sagittal": Acquisition("sagittal", tilts=(-14, 12, 9)),
    "oblique coronal": Acquisition("coronal", tilts=(20, 7, -8), slices=120),
    "nearly half way": Acquisition(tilts=(43, 0, 0), rows=140),
    "oblong voxels": Acquisition("sagittal", pixel_mm=(1.2, 2.4), rows=190, columns=100, slice_mm=2.3, slices=80),
}


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_every_acquisition_gives_the_axial_slices_of_the_head(name: str) -> None:
    made = _reformat(ACQUISITIONS[name])
    assert made.plane == (Plane.AXIAL if "axial" in name or "half" in name else Plane(ACQUISITIONS[name].plane))
    for item in _inner(made)[::4]:
        assert item.plane == Plane.AXIAL
        assert (item.position_mm or 0) % SPACING == pytest.approx(SPACING / 2)
        assert item.edges == Edges(left="R", right="L", top="A", bottom="P")
        truth, shown = _truth(item), _values(item)
        assert np.corrcoef(truth.ravel(), shown.ravel())[0, 1] > 0.97
        assert abs(shown.mean() - truth.mean()) < 0.03 * truth.mean()
    positions = np.array([item.position_mm for item in made.slices])
    np.testing.assert_allclose(np.diff(positions), SPACING)


def test_scales_of_the_frames_cancel() -> None:
    axial = Acquisition()
    plain, scaled = _reformat(axial), _reformat(axial, slopes=np.linspace(0.5, 2, axial.slices))
    for one, other in zip(plain.slices, scaled.slices, strict=True):
        np.testing.assert_allclose(_values(other), _values(one), atol=2)


def test_beyond_the_volume_is_dark() -> None:
    tilted = _reformat(Acquisition(tilts=(20, 0, 25)))
    for item in tilted.slices:
        assert _values(item)[0, 0] <= 1


@pytest.mark.parametrize(
    ("acquisition", "spacing", "below"),
    [
        (Acquisition(slice_mm=2.5, slices=4), SPACING, BELOW),  # as far apart as the limit
        (Acquisition(slice_mm=6.0, slices=4), SPACING, BELOW),
        (Acquisition(slices=1), SPACING, BELOW),
        (Acquisition(slices=3, slice_mm=0.5), SPACING, BELOW),  # thinner than half a slice
        (Acquisition(slices=4), 0.0, 0.0),
    ],
)
def test_other_series_stay_as_they_are(acquisition: Acquisition, spacing: float, below: float) -> None:
    assert reformat(acquisition.frames(), spacing, below) is None


def test_series_without_geometry_stay_as_they_are() -> None:
    frames = [replace(item.source, orientation=None, position=None) for item in Acquisition(slices=4).frames()]
    assert reformat(stack(frames), SPACING, BELOW) is None
    frames = [replace(item.source, position=None) for item in Acquisition(slices=4).frames()]
    assert reformat(stack(frames), SPACING, BELOW) is None


def test_a_missing_slice_is_bridged_and_a_hole_is_not() -> None:
    axial = Acquisition()
    whole, lacking = _reformat(axial), reformat(axial.frames()[:60] + axial.frames()[61:], SPACING, BELOW)
    assert lacking is not None
    assert len(lacking.slices) == len(whole.slices)
    for one, other in zip(_inner(whole), _inner(lacking), strict=True):
        assert np.corrcoef(_values(one).ravel(), _values(other).ravel())[0, 1] > 0.98
    for plane in ("axial", "sagittal"):
        frames = Acquisition(plane, slices=30).frames()
        with pytest.raises(NotAssessable, match="a gap of 10 mm") as raised:
            reformat(frames[:12] + frames[16:], SPACING, BELOW)
        assert raised.value.reason == "incomplete"


def _pixel(made: Reformatted, index: int, point: Any) -> tuple[float, float]:
    """Row and column of a point in the patient, in pixels from the slice's corner."""
    left, top, _ = made.slices[index].source.position or ()
    pixel = made.slices[index].spacing[0]
    return (point[1] - top) / pixel + 0.5, (point[0] - left) / pixel + 0.5


@pytest.mark.parametrize("name", ["axial", "sagittal", "oblique axial", "oblique coronal", "axial from the head"])
def test_the_slice_through_a_point_stands_for_it(name: str) -> None:
    frames = ACQUISITIONS[name].frames()
    made = _reformat(ACQUISITIONS[name])
    index = int(np.abs([(item.position_mm or 0) - MASS_CENTRE_MM[2] for item in made.slices]).argmin())
    point = np.array([*MASS_CENTRE_MM[:2], made.slices[index].position_mm])
    row, column = _pixel(made, index, point)
    source = made.source(index, row, column)
    normal = np.cross(*(np.array(frames[source].source.orientation).reshape(2, 3)))
    distance = (point - np.array(frames[source].source.position)) @ normal
    assert abs(distance) <= ACQUISITIONS[name].slice_mm / 2 + 1e-6
    square = made.on_source(index, row, column, 30.0, source)
    if made.plane != Plane.AXIAL:
        assert square is None
        return
    assert square is not None
    top, left, height, width = square
    shown = frames[source].pixels
    middle = round((top + height / 2) * shown.shape[0]), round((left + width / 2) * shown.shape[1])
    assert shown[middle] < 400 < shown[:, : shown.shape[1] // 2].max()  # the dark core of the mass
    mirrored = shown[middle[0], shown.shape[1] - 1 - middle[1]]
    assert mirrored > shown[middle] + 200
    assert width == pytest.approx(30 * made.slices[index].spacing[0] / (112 * 2.0), rel=0.05)
    assert height / width == pytest.approx(shown.shape[1] / shown.shape[0], rel=0.05)


def test_memory_is_bounded_by_that_of_the_volume() -> None:
    row, column, normal = Acquisition(tilts=(10, 5, 0)).directions()
    pixels = np.random.default_rng(1).integers(0, 999, (200, 200), np.uint16)
    frames = [
        DecodedFrame(Path(), "", "", "MR", index, None, pixels.copy(), 1.0, 0.0, (1.0, 1.0), (*row, *column),
                     tuple(normal * index))
        for index in range(200)
    ]  # fmt: skip
    slices = stack(frames)
    tracemalloc.start()
    try:
        assert reformat(slices, SPACING, BELOW) is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 200**3  # the volume in float32 would be 4 bytes a voxel, with its sums 12
