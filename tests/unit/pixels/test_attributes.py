from __future__ import annotations

import warnings
from typing import Any

import pytest
from pydicom import Dataset

from worker.pixels.attributes import finite_numbers, first_numbers, frame_sources, integer, sequence_item


def dataset(**attributes: Any) -> Dataset:
    ds = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that the standard forbids
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("attributes", "numbers"),
    [
        ({"PixelSpacing": [0.5, 0.25]}, (0.5, 0.25)),
        ({"PixelSpacing": 0.5}, (0.5,)),
        ({"PixelSpacing": []}, ()),
        ({"PixelSpacing": None}, ()),
        ({"PixelSpacing": [float("nan"), 1]}, ()),
        ({"PixelSpacing": [1, float("inf")]}, ()),
        ({"PatientID": "12"}, ()),
        ({}, ()),
    ],
)
def test_numbers_of_an_element(attributes: dict[str, Any], numbers: tuple[float, ...]) -> None:
    keyword = next(iter(attributes), "PixelSpacing")
    assert finite_numbers(dataset(**attributes), keyword) == numbers


def test_absent_holder_has_no_numbers() -> None:
    assert finite_numbers(None, "PixelSpacing") == ()
    assert sequence_item(None, "SharedFunctionalGroupsSequence", 0) is None


def test_integer_or_the_default() -> None:
    assert integer(dataset(Rows=16), "Rows", 0) == 16
    assert integer(dataset(), "Rows", 7) == 7
    assert integer(dataset(NumberOfFrames=None), "NumberOfFrames", None) is None


def test_frame_comes_before_the_shared_group_and_the_top_level() -> None:
    def group(spacing: float) -> Dataset:
        return dataset(PixelMeasuresSequence=[dataset(PixelSpacing=[spacing, spacing])])

    ds = dataset(
        PerFrameFunctionalGroupsSequence=[group(1), dataset()],
        SharedFunctionalGroupsSequence=[group(2)],
        PixelSpacing=[3, 3],
    )
    answers = [
        first_numbers(frame_sources(ds, frame), "PixelMeasuresSequence", "PixelSpacing", 2) for frame in (0, 1, 2)
    ]
    assert answers == [(1, 1), (2, 2), (2, 2)]
    del ds.SharedFunctionalGroupsSequence
    assert first_numbers(frame_sources(ds, 1), "PixelMeasuresSequence", "PixelSpacing", 2) == (3, 3)


def test_values_of_another_count_are_passed_over() -> None:
    ds = dataset(SharedFunctionalGroupsSequence=[dataset(PixelSpacing=[1, 1, 1])], PixelSpacing=[3, 3])
    assert first_numbers(frame_sources(ds, 0), "PixelMeasuresSequence", "PixelSpacing", 2) == (3, 3)
    assert first_numbers(frame_sources(ds, 0), "PixelMeasuresSequence", "ImagePositionPatient", 3) is None
