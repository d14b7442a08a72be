"""What an identifier asks for, and which values match it (PS3.4 C.2.2.2)."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import Dataset

from worker.query_retrieve.identifiers import Mismatch, add_value, answer, matches, read_query, read_retrieval


def dataset(**keys: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in keys.items():
        add_value(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("keyword", "key", "value", "is_match"),
    [
        ("StudyTime", "10", "100000.000", True),
        ("StudyTime", "10-12", "125959.9", True),
        ("StudyTime", "10-12", "130000", False),
        ("StudyTime", "-0930", "093059", True),
        ("StudyTime", "0931-", "093059", False),
        ("StudyTime", "10-", "", False),
        ("SeriesDate", "20260101-20260131", "20260131", True),
        ("SeriesDate", "20260131", "20260131", True),
        ("SeriesNumber", "3", "03", True),
        ("SeriesNumber", "0", "0", True),
        ("SeriesNumber", "3", "30", False),
        ("StudyDescription", "MR*brain?", "MR of brain1", True),
        ("StudyDescription", "MR*brain?", "MR of brain", False),
        ("StudyDescription", "a.c", "abc", False),
        ("StudyDescription", "[ab]*", "abc", False),
        ("StudyDescription", "Brain", "BRAIN", False),
        ("ReferringPhysicianName", "house^*", "House^Gregory", True),
        ("ImageType", "DERIVED", "DERIVED\\SECONDARY", True),
        ("ImageType", "SECONDARY", "DERIVED\\SECONDARY", True),
    ],
)
def test_a_value_matches_as_its_representation_asks(keyword: str, key: str, value: str, is_match: bool) -> None:
    assert matches(dataset(**{keyword: key}), dataset(**{keyword: value})) is is_match
    assert not matches(dataset(**{keyword: key}), Dataset())


def test_one_item_of_a_sequence_must_match_with_all_its_keys() -> None:
    items = [dataset(CodeValue="1", CodingSchemeDesignator="A"), dataset(CodeValue="2", CodingSchemeDesignator="B")]
    header = dataset(ConceptNameCodeSequence=items)
    for code, scheme, is_match in [("1", "A", True), ("2", "", True), ("1", "B", False)]:
        key = dataset(CodeValue=code, CodingSchemeDesignator=scheme)
        assert matches(dataset(ConceptNameCodeSequence=[key]), header) is is_match


def test_keys_go_to_the_database_or_to_the_header() -> None:
    ds = dataset(
        QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2", SeriesInstanceUID=["1.3", "1.4"], Modality="M*",
        PatientName="*", PatientID="a\\b", SeriesNumber="3", NumberOfSeriesRelatedInstances="7", Rows="",
    )  # fmt: skip
    query = read_query(ds, "STUDY")
    assert (query.keys.study_instance_uids, query.keys.series_instance_uids) == (("1.2",), ("1.3", "1.4"))
    assert (query.keys.patient_name, query.keys.modalities) == ("", ())
    assert set(query.others.dir()) == {"Modality", "SeriesNumber"}
    assert "Rows" not in query.wanted
    assert not query.is_understood  # Rows is of a level below, a number of instances is not matched


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
def test_a_retrieval_names_what_it_wants(keys: dict[str, Any]) -> None:
    with pytest.raises(Mismatch):
        read_retrieval(dataset(**keys), "PATIENT")


def test_a_list_of_uids_is_a_list() -> None:
    keys = read_retrieval(dataset(QueryRetrieveLevel="STUDY", StudyInstanceUID=["1.2", "1.3"]), "STUDY")
    assert keys.study_instance_uids == ("1.2", "1.3")


def test_what_no_representation_allows_is_answered_or_left_empty() -> None:
    query = read_query(dataset(QueryRetrieveLevel="STUDY", StudyDate="", StudyID="", PatientSex=""), "STUDY")
    found = answer(query, dataset(StudyDate="1.3.2026", StudyID="much longer than sixteen"), "WORKER", "ONLINE")
    assert (found.StudyDate, found.StudyID) == ("1.3.2026", "much longer than sixteen")
    assert not found.PatientSex
    assert "SpecificCharacterSet" not in found
