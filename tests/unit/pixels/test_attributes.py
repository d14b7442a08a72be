from __future__ import annotations

import warnings
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.tag import Tag

from worker.pixels import attributes
from worker.pixels.attributes import finite_numbers, first_numbers, frame_sources, integer, sequence_item


def dataset(**values: Any) -> Dataset:
    ds = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that the standard forbids
        for keyword, value in values.items():
            setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("values", "numbers"),
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
def test_numbers_of_an_element(values: dict[str, Any], numbers: tuple[float, ...]) -> None:
    keyword = next(iter(values), "PixelSpacing")
    assert finite_numbers(dataset(**values), keyword) == numbers


_TEXTS = st.one_of(
    st.lists(st.floats().map(repr) | st.integers().map(str) | st.sampled_from(["", " 7 ", "1_0", "1,5", "0x1"]))
    .map("\\".join).map(str.encode),
    st.binary(max_size=12),
)  # fmt: skip


@given(
    raw=st.one_of(_TEXTS, _TEXTS.map(lambda text: text + b"\0"), st.binary(max_size=4)),
    keyword=st.sampled_from(["ImagePositionPatient", "InstanceNumber", "Rows", "PixelPaddingValue", "PatientID"]),
    vr=st.sampled_from(["DS", "IS", "US", "SS", "LO", "UN", None]),
    is_little_endian=st.booleans(),
)
@example(raw=b"1.0", keyword="InstanceNumber", vr="IS", is_little_endian=True)
@example(raw=b"1.5", keyword="InstanceNumber", vr="IS", is_little_endian=True)
@example(raw=b"1\\2\\3 \0", keyword="ImagePositionPatient", vr=None, is_little_endian=True)
@example(raw=b"\x01\x02\x03\x04", keyword="Rows", vr="US", is_little_endian=True)
def test_a_value_as_it_lies_in_the_file_has_the_numbers_that_pydicom_reads(
    raw: bytes, keyword: str, vr: str | None, is_little_endian: bool
) -> None:
    def stored() -> Dataset:
        ds = Dataset()
        ds[Tag(keyword)] = RawDataElement(Tag(keyword), vr, len(raw), raw, 0, vr is None, is_little_endian)
        return ds

    def numbers() -> object:
        try:
            return finite_numbers(stored(), keyword)
        except BytesLengthException as error:
            return str(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_it_lies = numbers()
        with patch.object(attributes, "_plain_numbers", return_value=None):
            assert as_it_lies == numbers()


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
