"""What the identifier of a request asks for, and what that of a response holds."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from worker.dicom.matching import Key, matches
from worker.dicom.odd_values import add_value
from worker.query_retrieve.identifiers import (
    Mismatch,
    read_find_identifier,
    read_retrieve_identifier,
    response_identifier,
)


def dataset(**keys: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in keys.items():
        add_value(ds, keyword, value)
    return ds


def test_keys_go_to_the_database_or_to_the_header() -> None:
    ds = dataset(
        QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2", SeriesInstanceUID=["1.3", "1.4"], Modality="M*",
        PatientName="*", PatientID="a\\b", SeriesNumber="3", NumberOfSeriesRelatedInstances="7", Rows="",
    )  # fmt: skip
    request = read_find_identifier(ds, "STUDY")
    assert (request.keys.study_instance_uids, request.keys.series_instance_uids) == (("1.2",), ("1.3", "1.4"))
    assert (request.keys.patient_names, request.keys.modalities) == ((), ("M*",))
    assert request.keys.patient_ids == ("a", "b")
    assert request.header_keys == (Key(0x00200011, "IS", ("3",)),)
    assert "Rows" not in request.attributes
    assert not request.is_understood  # Rows is of a level below, a number of instances is not matched


def test_what_is_no_key_is_not_decoded_and_a_key_no_further_than_the_longest_list() -> None:
    ds = Dataset()
    for tag, value in ((0x00080052, b"STUDY "), (0x0020000D, b"1.2"), (0x00104000, b"a\\" * 200_000)):
        ds[tag] = RawDataElement(BaseTag(tag), None, len(value), value, 0, True, True)
    assert not read_find_identifier(ds, "STUDY").is_understood
    assert isinstance(ds.get_item(0x00104000), RawDataElement)
    ds[0x00100020] = RawDataElement(BaseTag(0x00100020), None, 400_000, b"a\\" * 200_000, 0, True, True)
    with pytest.raises(Mismatch):
        read_find_identifier(ds, "STUDY")
    assert isinstance(ds.get_item(0x00100020), RawDataElement)


@pytest.mark.parametrize(
    "keys",
    [
        {"QueryRetrieveLevel": "PATIENT", "PatientID": "*"},
        {"QueryRetrieveLevel": "PATIENT", "PatientID": "A?"},
        {"QueryRetrieveLevel": "PATIENT", "PatientID": ""},
        {"QueryRetrieveLevel": "PATIENT", "PatientID": "A\\B"},
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"},
        {"QueryRetrieveLevel": "STUDY", "PatientID": "A", "PatientName": "B"},
        {"QueryRetrieveLevel": "IMAGE", "PatientID": "A", "StudyInstanceUID": "1.2", "SOPInstanceUID": "1.4"},
        {"PatientID": "A"},
    ],
)
def test_a_retrieval_needs_the_unique_keys_of_its_levels(keys: dict[str, Any]) -> None:
    with pytest.raises(Mismatch):
        read_retrieve_identifier(dataset(**keys), "PATIENT")


def test_a_key_of_too_many_values_is_refused() -> None:
    ds = dataset(QueryRetrieveLevel="STUDY", PatientID="\\".join(map(str, range(51))))
    with pytest.raises(Mismatch):
        read_find_identifier(ds, "STUDY")


def test_a_key_that_is_a_sequence_where_none_belongs_selects_nothing() -> None:
    ds = dataset(QueryRetrieveLevel="STUDY", PatientName="")
    ds[0x00100010] = DataElement(0x00100010, "SQ", [dataset(CodeValue="1")])
    request = read_find_identifier(ds, "STUDY")
    assert not matches(request.header_keys, dataset(PatientName="1"))


def test_a_list_of_uids_is_read_as_a_list() -> None:
    keys = read_retrieve_identifier(dataset(QueryRetrieveLevel="STUDY", StudyInstanceUID=["1.2", "1.3"]), "STUDY")
    assert keys.study_instance_uids == ("1.2", "1.3")


def test_an_odd_value_is_answered_and_a_missing_one_is_empty() -> None:
    request = read_find_identifier(
        dataset(QueryRetrieveLevel="STUDY", StudyDate="", StudyID="", PatientSex=""), "STUDY"
    )
    known = dataset(StudyDate="1.3.2026", StudyID="much longer than sixteen", InstanceAvailability="ONLINE")
    found = response_identifier(request, known, "WORKER")
    assert (found.StudyDate, found.StudyID) == ("1.3.2026", "much longer than sixteen")
    assert not found.PatientSex
    assert "SpecificCharacterSet" not in found
