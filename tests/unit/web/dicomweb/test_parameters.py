"""What the parameters of a search ask for."""

from __future__ import annotations

import pytest

from worker.dicom.matching import Key
from worker.web.dicomweb.parameters import InvalidQuery, Level, parse

UIDS = {"StudyInstanceUID": "1.2"}


@pytest.mark.parametrize("name", ["PatientNom", "00091001", "GGGG0010", "", "PatientName.", "0010"])
def test_an_unknown_key_is_said_to_be_one(name: str) -> None:
    with pytest.raises(InvalidQuery):
        parse([(name, "x")], Level.STUDY, {})


@pytest.mark.parametrize(
    "parameters",
    [
        [("PatientID", "a"), ("00100020", "b")],  # PS3.18 8.3.4.1: not repeated
        [("StudyInstanceUID", "1.2.*")],
        [("StudyInstanceUID", "1.2,x")],
        [("PatientID", "\\".join("a" * 51))],
        [(".".join(["ContentSequence"] * 9), "a")],
        [("limit", "-1")],
        [("offset", "1e3")],
        [("fuzzymatching", "maybe")],
    ],
)
def test_a_search_that_the_standard_does_not_allow_is_refused(parameters: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidQuery):
        parse(parameters, Level.INSTANCE, {})


def test_keys_go_to_the_database_or_to_the_header() -> None:
    parameters = {
        "Modality": "MR,S?",
        "PatientName": "*",
        "SeriesNumber": "7.0",
        "RequestAttributesSequence.RequestedProcedureID": "A",
        "RequestAttributesSequence.ScheduledProcedureStepID": "1",
        "StudyInstanceUID": "9.9",
    }
    query = parse(parameters.items(), Level.SERIES, UIDS)
    assert query.keys.modalities == ("MR", "S?")
    assert query.keys.patient_names == ()
    assert query.keys.study_instance_uids == ("1.2",)
    item = (Key(0x00401001, "SH", ("A",)), Key(0x00400009, "SH", ("1",)))
    assert query.header_keys == (Key(0x00200011, "IS", ("7.0",)), Key(0x00400275, "SQ", item=item))
    assert query.fields is not None
    assert {0x00200011, 0x00400275} <= query.fields


def test_a_date_is_looked_at_with_its_time() -> None:
    query = parse([("StudyDate", "20260301-"), ("StudyTime", "12-")], Level.STUDY, {})
    assert query.keys.study_dates == ("20260301-",)
    assert query.header_keys == (Key(0x00080020, "DA", ("20260301-",)), Key(0x00080030, "TM", ("12-",)))
    assert parse([("StudyDate", "20260301-")], Level.STUDY, {}).header_keys == ()


def test_values_that_name_a_patient_are_not_audited() -> None:
    parameters = [("PatientID", "a"), ("StudyDate", "20260301"), ("limit", "5"), ("includefield", "Modality")]
    audited = parse(parameters, Level.STUDY, UIDS).audited
    assert audited == {
        "PatientID": "***", "StudyDate": "20260301", "limit": "5", "includefield": "Modality", **UIDS,
    }  # fmt: skip
