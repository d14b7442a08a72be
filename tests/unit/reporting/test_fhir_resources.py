from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from pydicom import Dataset

from tests.testbed import results
from worker.dicom.standard import derive_uid
from worker.reporting.fhir_resources import report_as_bundle
from worker.reporting.sr import build_report
from worker.reporting.study_sr import build_study_report
from worker.results import CodedConcept, ModelIdentity, SeriesResult

SOURCES = results.source_headers()


def bundle_of(
    result: SeriesResult, sources: list[Dataset] = SOURCES, model: ModelIdentity = results.MODEL, **options: Any
) -> dict[str, Any]:
    report = build_report(result, model, sources, **results.ARGUMENTS)
    content = report_as_bundle(report, **options)
    Bundle.model_validate_json(content)
    found: dict[str, Any] = json.loads(content)
    return found


def of_type(bundle: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == name]


def test_a_class_is_a_present_neoplasm_with_the_codes_of_the_report() -> None:
    bundle = bundle_of(results.classified(SOURCES))
    [report], [device] = of_type(bundle, "DiagnosticReport"), of_type(bundle, "Device")
    [observation] = of_type(bundle, "Observation")
    probabilities = observation["contained"]
    glioma = {"system": "http://snomed.info/sct", "code": "393564001", "display": "Glioma"}
    assert report["conclusionCode"][0]["coding"] == [glioma]
    assert observation["code"]["coding"][0]["code"] == "108369006"
    assert observation["valueCodeableConcept"]["coding"][0]["display"] == "Present"
    assert observation["component"][0]["valueCodeableConcept"]["coding"] == [glioma]
    assert observation["bodySite"]["text"] == "Brain"
    values = {one["component"][0]["valueCodeableConcept"]["text"]: one["valueQuantity"] for one in probabilities}
    assert list(values) == ["Glioma", "Intracranial meningioma", "Pituitary adenoma", "Absent"]
    assert [one["value"] for one in values.values()] == [0.97, 0.01, 0.01, 0.01]
    assert {one["code"]["coding"][0]["code"] for one in probabilities} == {"122157"}
    assert [one["reference"] for one in observation["hasMember"]] == [f"#{one['id']}" for one in probabilities]
    assert device["deviceName"][0]["name"] == "brain-mri-tumour"
    assert device["serialNumber"] == results.MODEL.sha256


def test_no_neoplasm_is_an_absent_one_and_has_no_conclusion_code() -> None:
    bundle = bundle_of(results.classified(SOURCES, "notumor"))
    assert "conclusionCode" not in of_type(bundle, "DiagnosticReport")[0]
    assert of_type(bundle, "Observation")[0]["valueCodeableConcept"]["text"] == "Absent"


@pytest.mark.parametrize(
    ("label", "presence", "code"), [("tumor", "Present", "126952004"), ("other", "Absent", "301766008")]
)
def test_a_lesion_without_a_kind_and_one_that_is_no_tumour_are_conclusions(
    label: str, presence: str, code: str
) -> None:
    model = results.MODEL_OF_LESIONS
    bundle = bundle_of(results.classified(SOURCES, label, 0.9, model), model=model)
    [report], [observation] = of_type(bundle, "DiagnosticReport"), of_type(bundle, "Observation")
    assert [one["coding"][0]["code"] for one in report["conclusionCode"]] == [code]
    assert (observation["valueCodeableConcept"]["text"], "dataAbsentReason" in observation) == (presence, False)
    assert observation["component"][0]["valueCodeableConcept"]["coding"][0]["code"] == code
    values = {one["component"][0]["valueCodeableConcept"]["text"]: one for one in observation["contained"]}
    assert len(values) == (6 if label == "tumor" else 5)
    assert values["Absent"]["component"][0]["code"]["text"] == "Lesion"


def test_what_was_not_assessed_has_no_value_and_says_why() -> None:
    bundle = bundle_of(results.not_assessed(SOURCES))
    [observation] = of_type(bundle, "Observation")
    assert "valueCodeableConcept" not in observation
    assert observation["dataAbsentReason"]["coding"][0]["code"] == "unknown"
    assert observation["dataAbsentReason"]["text"].startswith("Not assessed: The images look unlike")
    assert not {"contained", "hasMember"} & set(observation)
    assert "conclusionCode" not in of_type(bundle, "DiagnosticReport")[0]


@pytest.mark.parametrize("result", [results.classified(SOURCES), results.not_assessed(SOURCES)])
def test_it_is_unverified_for_research_and_names_patient_and_study(result: SeriesResult) -> None:
    bundle = bundle_of(result)
    for kind, status in (("DiagnosticReport", "partial"), ("Observation", "preliminary")):
        [one] = of_type(bundle, kind)
        assert one["status"] == status
        assert one["subject"]["identifier"]["value"] == "PHANTOM-1"
        assert one["effectiveDateTime"] == "2026-11-21"
        study = (one.get("imagingStudy") or one["derivedFrom"])[0]["identifier"]
        assert study == {"system": "urn:dicom:uid", "value": f"urn:oid:{SOURCES[0].StudyInstanceUID}"}
    [report] = of_type(bundle, "DiagnosticReport")
    assert "research use" in report["conclusion"]
    assert report["basedOn"][0]["identifier"]["value"] == "A0001"
    assert report["issued"] == "2026-11-21T09:30:15.123000+01:00"


def test_every_reference_leads_to_an_entry() -> None:
    bundle = bundle_of(results.classified(SOURCES))
    addresses = {one["fullUrl"] for one in bundle["entry"]}
    referred = {one.split('"')[0] for one in json.dumps(bundle).split('"reference": "')[1:]}
    assert {one for one in referred if not one.startswith("#")} < addresses
    assert len(addresses) == len(bundle["entry"]) == 3


def test_a_transaction_replaces_what_has_the_same_identifier() -> None:
    first, again = (bundle_of(results.classified(SOURCES), transaction=True) for _ in range(2))
    assert first == again
    asked = [one["request"] for one in first["entry"]]
    assert {one["method"] for one in asked} == {"PUT"}
    assert len({one["url"] for one in asked}) == len(asked)
    uid = results.ARGUMENTS["series_instance_uid"]
    assert asked[0]["url"] == f"DiagnosticReport?identifier=urn:dicom:uid|urn:oid:{uid}"


def test_a_revised_report_has_the_addresses_of_the_one_before_it_and_says_which_document_it_is() -> None:
    first = build_report(results.classified(SOURCES), results.MODEL, SOURCES, **results.ARGUMENTS)
    arguments = results.ARGUMENTS | {"sop_instance_uid": derive_uid("test", "second")}
    second = build_report(results.not_assessed(SOURCES), results.MODEL, SOURCES, **arguments, predecessors=[first])
    before, after = (json.loads(report_as_bundle(one, transaction=True)) for one in (first, second))
    assert [one["request"] for one in before["entry"]] == [one["request"] for one in after["entry"]]
    assert before["identifier"] != after["identifier"]
    [report] = of_type(after, "DiagnosticReport")
    assert report["identifier"][1]["value"] == f"urn:oid:{derive_uid('test', 'second')}"


def test_a_source_that_says_little_still_makes_valid_resources() -> None:
    bare = results.source_headers(PatientID=None, AccessionNumber=None, StudyDate="soon", PatientName="Jane_Doe")
    bundle = bundle_of(results.classified(bare), bare)
    [report] = of_type(bundle, "DiagnosticReport")
    assert not {"subject", "basedOn", "effectiveDateTime"} & set(report)


def test_odd_identifiers_are_carried_as_they_are() -> None:
    odd = results.source_headers(PatientID=" Ä ^ß ", AccessionNumber=" 7 ", IssuerOfPatientID="Ward <7>")
    bundle = bundle_of(results.classified(odd), odd)
    identifier = of_type(bundle, "DiagnosticReport")[0]["subject"]["identifier"]
    assert identifier["assigner"] == {"display": "Ward <7>"}
    assert identifier["value"]


@pytest.mark.parametrize("broken", [Dataset(), SOURCES[0]])
def test_another_object_is_refused_without_a_word_of_it(broken: Dataset) -> None:
    with pytest.raises(ValueError, match=r"^the dataset is not a report of this worker$"):
        report_as_bundle(broken)


def test_a_report_that_was_replaced_from_another_series_is_marked_as_an_error() -> None:
    first = build_report(results.classified(SOURCES), results.MODEL, SOURCES, **results.ARGUMENTS)
    moved = {"sop_instance_uid": derive_uid("test", "moved"), "series_instance_uid": derive_uid("test", "elsewhere")}
    second = build_report(
        results.classified(SOURCES), results.MODEL, SOURCES, **results.ARGUMENTS | moved, predecessors=[first]
    )
    bundle = json.loads(report_as_bundle(second, transaction=True))
    reports = of_type(bundle, "DiagnosticReport")
    assert [one["status"] for one in reports] == ["partial", "entered-in-error"]
    assert reports[1]["identifier"][0]["value"] == f"urn:oid:{first.SeriesInstanceUID}"
    assert "subject" not in reports[1]
    before = of_type(json.loads(report_as_bundle(first)), "Observation")
    after = of_type(bundle, "Observation")
    assert (after[1]["status"], after[1]["identifier"]) == ("entered-in-error", before[0]["identifier"][:1])
    assert len(of_type(json.loads(report_as_bundle(second)), "DiagnosticReport")) == 1


def _bundle_of_study(name: str, **changes: Any) -> dict[str, Any]:
    identity = replace(results.STUDY_IDENTITY, **changes)
    report = build_study_report(results.STUDIES[name], results.MODEL, SOURCES[0], identity)
    content = report_as_bundle(report)
    Bundle.model_validate_json(content)
    found: dict[str, Any] = json.loads(content)
    return found


def test_a_study_is_a_report_with_an_observation_for_it_and_for_each_series() -> None:
    bundle = _bundle_of_study("no tumour")
    [report] = of_type(bundle, "DiagnosticReport")
    study, first, _, knee = of_type(bundle, "Observation")
    assert len(report["result"]) == 4
    assert report["conclusion"].splitlines()[1] == "Class: No tumour, probability 0.930."
    assert study["valueCodeableConcept"]["text"] == "Absent"
    assert first["note"][0]["text"] == "series 2: AX T1. No tumour 0.900, counts 50 %. Deciding series"
    assert len(first["contained"]) == 4
    assert knee["dataAbsentReason"]["text"] == "Not assessed: body part"


def test_a_revision_of_a_study_has_the_identifiers_of_its_observations() -> None:
    first, second = (
        [item["identifier"][0] for item in of_type(_bundle_of_study("series disagree", **changes), "Observation")]
        for changes in ({}, {"sop_instance_uid": "1.2.3"})
    )
    assert first == second
    assert len({item["value"] for item in first}) == 3


def test_a_model_that_knows_no_neoplasm_speaks_of_a_lesion_or_of_what_its_bundle_names() -> None:
    classes = tuple(replace(item, neoplasm=False) for item in results.MODEL.classes)
    for presence, expected in ((None, "Lesion"), (CodedConcept("50960005", "SCT", "Hemorrhage"), "Hemorrhage")):
        model = replace(results.MODEL, classes=classes, presence=presence)
        for name, value in (("glioma", "Present"), ("notumor", "Absent")):
            bundle = bundle_of(results.classified(SOURCES, name, model=model), model=model)
            [observation] = of_type(bundle, "Observation")
            assert observation["code"]["text"] == expected
            assert observation["valueCodeableConcept"]["text"] == value
            assert "Neoplasm" not in json.dumps(observation)
