from __future__ import annotations

import json

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from worker.dicom.series_attributes import (
    MAXIMUM_LENGTH,
    MAXIMUM_VALUES,
    first_number,
    group_texts,
    number,
    read_attributes,
    read_frame_attributes,
)


def _dataset(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def test_free_text_is_stored_as_the_names_of_its_terms() -> None:
    ds = _dataset(
        SeriesDescription="T1 post CANARY^NAME", StudyDescription="CANARY wrist", ReceiveCoilName="CANARY knee"
    )
    ds.ContrastBolusAgent = "CANARY 10 ml"
    stored = read_attributes(ds)
    assert "CANARY" not in json.dumps(stored)
    assert stored == {
        "SeriesDescription": ["T1", "post"],
        "StudyDescription.part": ["WRIST"],
        "ReceiveCoilName": ["KNEE"],
        "ContrastBolusAgent": ["YES"],
    }


def test_hostile_values_are_cut() -> None:
    ds = Dataset()
    values = b"\\".join([b"X" * 1000] * 1000)
    ds[0x00080008] = RawDataElement(BaseTag(0x00080008), "CS", len(values), values, 0, False, True)
    [stored] = read_attributes(ds).values()
    assert len(stored) <= MAXIMUM_VALUES
    assert max(map(len, stored)) <= MAXIMUM_LENGTH


def test_an_unreadable_value_counts_as_absent() -> None:
    ds = Dataset()
    ds[0x00180081] = RawDataElement(BaseTag(0x00180081), "FD", 3, b"abc", 0, False, True)
    ds[0x00080020] = RawDataElement(BaseTag(0x00080020), "DA", 8, b"20200101", 0, False, True)
    assert read_attributes(ds) == {}


def test_the_values_of_frames_are_read_from_their_macro() -> None:
    macro = _dataset(FrameType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
    assert group_texts(macro, "FrameType")[-1] == "ADC"
    assert group_texts(macro, "FlipAngle") == []
    assert read_frame_attributes({"FrameType": ["adc"], "FlipAngle": None}) == {"FrameType": ["ADC"]}


def test_numbers_are_finite() -> None:
    assert (number("1e3"), number("nan"), number("inf"), number("x")) == (1000.0, None, None, None)
    assert first_number({"EchoTime": ["x", "5"]}, "RepetitionTime", "EchoTime") == 5.0
