from __future__ import annotations

import pytest

from worker.dicom.image_types import BY_IMAGE_TYPE, derived_into, find_plane, image_types
from worker.dicom.series_attributes import TYPE_KEY


def test_all_values_of_image_and_frame_type_count() -> None:
    kind = {"ImageType": ["DERIVED", "PRIMARY"], "FrameType": ["DERIVED", "PRIMARY", "DIFFUSION", "NONE"]}
    assert image_types(kind) == {"DERIVED", "PRIMARY", "DIFFUSION"}
    assert derived_into({**kind, "FrameType": ["ADC"]}) == "map"
    assert derived_into({}) == ""


def test_a_value_means_one_sequence() -> None:
    values = [value for _, _, some in BY_IMAGE_TYPE for value in some]
    assert len(values) == len(set(values))


def _at(*cosines: float) -> dict[str, object]:
    return {"place": [*cosines, 0.0, 0.0, 0.0]}


def test_an_oblique_plane_is_the_nearest_and_small_differences_are_none() -> None:
    tilted = _at(1, 0, 0, 0, 0.966, 0.259)
    assert find_plane([tilted]) == ("axial", False)
    assert find_plane([tilted, _at(1, 0, 0, 0, 1, 0)]) == ("axial", False)
    assert find_plane([tilted, _at(1, 0, 0, 0, 0, -1)]) == ("axial", True)


def test_the_direction_of_the_normal_is_no_difference() -> None:
    assert find_plane([_at(1, 0, 0, 0, 1, 0), _at(-1, 0, 0, 0, 1, 0)]) == ("axial", False)


def test_frames_of_an_enhanced_image_have_their_own() -> None:
    kinds = [{"ImageOrientationPatient": list(text.split("\\"))} for text in ("1\\0\\0\\0\\1\\0", "0\\1\\0\\0\\0\\-1")]
    assert find_plane([{"place": None, TYPE_KEY: kinds}]) == ("axial", True)


@pytest.mark.parametrize("cosines", [(0, 0, 0, 0, 0, 0), (9, 0, 0, 0, 9, 0)])
def test_no_orientation_is_unknown(cosines: tuple[float, ...]) -> None:
    assert find_plane([_at(*cosines)]) == ("unknown", False)
    assert find_plane([{"place": None}]) == ("unknown", False)
    assert find_plane([]) == ("unknown", False)
