"""What the parameters of a search ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.dicom.matching import Key
from worker.web.dicomweb.parameters import InvalidQuery, Level, parse

DEEP = ".".join(["00400275"] * 9)
UIDS = {"StudyInstanceUID": "1.2"}


@pytest.mark.parametrize(
    "name",
    ["PatientNom", "00091001", "GGGG0010", "", "PatientName.", "0010", "Rows", "orderby", "_", DEEP],
)
def test_an_unsupported_parameter_is_as_if_absent(name: str) -> None:
    query = parse([(name, "x"), (name, "y"), ("PatientID", "a")], Level.STUDY, {})
    assert query == replace(parse([("PatientID", "a")], Level.STUDY, {}), has_unsupported=True)


def test_the_form_of_the_answer_is_no_key() -> None:
    parameters = [("accept", "application/dicom+json"), ("charset", "utf-8"), ("includefield", "00091001,Rows,all")]
    query = parse(parameters, Level.STUDY, {})
    assert (query.header_keys, query.fields, query.has_unsupported) == ((), None, False)


@pytest.mark.parametrize(
    "parameters",
    [
        [("PatientID", "a"), ("00100020", "b")],  # PS3.18 8.3.4.1: not repeated
        [("StudyInstanceUID", "1.2.*")],
        [("StudyInstanceUID", "1.2,x")],
        [("PatientID", "\\".join("a" * 51))],
        [("limit", "1"), ("limit", "2")],
        [("limit", "-1")],
        [("offset", "1e3")],
        [("limit", "9" * 5000)],
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
