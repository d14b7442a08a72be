"""A FHIR server as a destination."""

from __future__ import annotations

from worker.send.destinations.fhir import FhirDestination

EHR = FhirDestination(name="ehr", url="https://ehr/fhir", fhir=True)


def test_it_is_described_by_its_url() -> None:
    description = EHR.describe()
    assert (description.protocol, description.ae_title, description.address) == ("FHIR", None, "https://ehr/fhir")
    assert description.answer == "https://ehr/fhir answers as a FHIR R4 server"


def test_it_accepts_reports_only() -> None:
    assert not EHR.is_dicom
    assert not EHR.wants_key_objects
    assert EHR.application_entity is None
