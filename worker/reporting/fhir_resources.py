"""Convert a report to HL7 FHIR R4: DiagnosticReport, Observations and the model as Device, with the report's codes.

The source is the Structured Report that goes to the PACS, so that the two cannot differ. The finding for the series, or
for the study and for each of its series (TID 1501), becomes an Observation, "Neoplasm: present, absent" or, where it is
not assessed, no value and the reason; each probability (TID 300) becomes a contained Observation, as it has no meaning
alone. Images are referenced by the
identifier of their study, the patient by the identifier in the report: the server resolves both.

A revised report has the identifiers of its predecessor, those of the report's DICOM series, and replaces it entirely. A
predecessor in another series, because its images were moved to another series or study, is marked entered-in-error, and
so is the Observation of a series that left the study.
Its status stays "partial" (R4: "may be incomplete or unverified"): "preliminary" is for verified results, "amended" and
"corrected" for a report that had been final, which none of ours is.
Source: HL7 FHIR 4.0.1 (R4B has the same three resources), its mappings to DICOM, PS3.16 TID 1500.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from worker.dicom import standard
from worker.dicom.standard import derive_uid

Resource = dict[str, Any]

_SYSTEMS = {  # PS3.16 Table 8-1
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "UCUM": "http://unitsofmeasure.org",
}
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_UNKNOWN = "unknown"  # of data-absent-reason: "the value is expected to exist but is not known"


def report_as_bundle(report: Dataset, *, transaction: bool = False, left: Sequence[Resource] = ()) -> str:
    """The resources of a report as a FHIR Bundle in JSON.

    `transaction`: a Bundle to send to a server, in which each resource replaces the resource of the same identifier, so
    that a repetition changes nothing. `left`: identifiers of Observations of its predecessor that it has no more, which
    are withdrawn. Raises ValueError for a dataset that is no report of this worker.
    """
    try:
        converter = _Converter(report)
        resources = converter.resources()
        sent = [*resources, *converter.withdrawn(left)] if transaction else resources
        bundle = Bundle.model_validate(
            {
                "resourceType": "Bundle",
                "identifier": resources[0]["identifier"][-1],
                "type": "transaction" if transaction else "collection",
                "timestamp": resources[0]["issued"],
                "entry": [_entry(resource, transaction) for resource in sent],
            }
        )
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):  # their texts may quote the patient
        raise ValueError("the dataset is not a report of this worker") from None
    return str(bundle.model_dump_json())


def same_report(report: Dataset) -> str:
    """The FHIR search for this report's DiagnosticReport in any revision (R4 3.1.1.4.10, token search)."""
    return f"DiagnosticReport?{_search(_uid(str(report.SeriesInstanceUID)))}"


def issued(report: Dataset) -> datetime:
    """The creation time of a report, aware, to the millisecond: DiagnosticReport.issued, an instant."""
    text = f"{report.ContentDate}{report.ContentTime}{report.TimezoneOffsetFromUTC}"
    return datetime.fromisoformat(datetime.strptime(text, "%Y%m%d%H%M%S.%f%z").isoformat(timespec="milliseconds"))


def _entry(resource: Resource, transaction: bool) -> Resource:
    identifier = resource["identifier"][0]
    entry: Resource = {"fullUrl": _address(identifier), "resource": resource}
    if transaction:
        entry["request"] = {"method": "PUT", "url": f"{resource['resourceType']}?{_search(identifier)}"}
    return entry


def _search(identifier: Resource) -> str:
    return f"identifier={identifier['system']}|{identifier['value']}"


class _Converter:
    """Converts a report."""

    def __init__(self, report: Dataset) -> None:
        if report.SOPClassUID not in (Comprehensive3DSRStorage, ComprehensiveSRStorage):
            raise ValueError("not a report")
        self._report = report
        self._measurements = _child(report, "126010")
        # The first group is that of the series, or of the study; then come those of its series, and of slices.
        self._answer, *others = _children(self._measurements, "125007")
        is_of_study = _tracking_identifier(self._answer) == standard.STUDY_GROUP
        self._series = [group for group in others if is_of_study and _is_of_series(group)]
        self._series_uid = str(report.SeriesInstanceUID)
        self._issued = issued(report).isoformat(timespec="milliseconds")

    def resources(self) -> list[Resource]:
        """The DiagnosticReport, then the resources that it refers to."""
        device = self._device()
        tracking_uid = _uid(_tracking_uid(self._answer))
        first = [_uid(derive_uid("observation", self._series_uid)), tracking_uid]
        observations = [self._observation(self._answer, first, device)]
        # The tracking UID of a series' group is the same in every revision.
        observations += [self._observation(group, [_uid(_tracking_uid(group))], device) for group in self._series]
        return [self._diagnostic_report(observations), *observations, device]

    def withdrawn(self, left: Sequence[Resource]) -> list[Resource]:
        """What replaces the resources of replaced reports that had other identifiers: those of another patient, say.

        And Observations of series that left the study.
        """
        documents = self._report.get("PredecessorDocumentsSequence") or ()
        uids = {str(series.SeriesInstanceUID) for study in documents for series in study.ReferencedSeriesSequence}
        code = _concept(_child(self._report, "121058").ConceptCodeSequence[0])
        finding = _concept(_name(_presence(self._answer)))
        common = {"status": "entered-in-error", "issued": self._issued}
        others = sorted(uids - {self._series_uid})
        return [
            *(
                {"resourceType": "DiagnosticReport", "identifier": [_uid(uid)], "code": code, **common}
                for uid in others
            ),
            *(
                {"resourceType": "Observation", "identifier": [identifier], "code": finding, **common}
                for identifier in (*(_uid(derive_uid("observation", uid)) for uid in others), *left)
            ),
        ]

    def _diagnostic_report(self, observations: list[Resource]) -> Resource:
        procedure = _child(self._report, "121058").ConceptCodeSequence[0]
        resource = {
            "resourceType": "DiagnosticReport",
            "identifier": [_uid(self._series_uid), _uid(str(self._report.SOPInstanceUID))],
            "status": "partial",
            "category": [{"coding": [{"system": f"{_TERMINOLOGY}/v2-0074", "code": "RAD", "display": "Radiology"}]}],
            "code": _concept(procedure),
            "result": [_reference(observation) for observation in observations],
            "imagingStudy": [self._study()],
            "conclusion": _comment(self._answer),
            **self._common(),
        }
        if accession := str(self._report.get("AccessionNumber") or ""):
            number = {"type": {"coding": [{"system": f"{_TERMINOLOGY}/v2-0203", "code": "ACSN"}]}, "value": accession}
            resource["basedOn"] = [{"type": "ServiceRequest", "identifier": number}]
        if findings := _findings(self._answer):
            resource["conclusionCode"] = [_concept(finding.ConceptCodeSequence[0]) for finding in findings]
        return resource

    def _observation(self, group: Dataset, identifiers: list[Resource], device: Resource) -> Resource:
        """The model's finding in a measurement group."""
        presence = _presence(group)
        category = {"system": f"{_TERMINOLOGY}/observation-category", "code": "imaging", "display": "Imaging"}
        resource = {
            "resourceType": "Observation",
            "identifier": identifiers,
            "status": "preliminary",
            "category": [{"coding": [category]}],
            "code": _concept(_name(presence)),
            "device": _reference(device),
            "derivedFrom": [self._study()],
            **self._common(),
        }
        code = presence.ConceptCodeSequence[0]
        if code.CodeValue == standard.UNDETERMINED[0]:
            reason = {"system": f"{_TERMINOLOGY}/data-absent-reason", "code": _UNKNOWN}
            resource["dataAbsentReason"] = {"coding": [reason], "text": _why_not_assessed(group)}
        else:
            resource["valueCodeableConcept"] = _concept(code)
        if findings := _findings(group):
            resource["component"] = [
                {"code": _concept(_name(finding)), "valueCodeableConcept": _concept(finding.ConceptCodeSequence[0])}
                for finding in findings
            ]
        for site in _children(group, "363698007"):
            resource["bodySite"] = _concept(site.ConceptCodeSequence[0])
        if measured := _children(group, standard.PROBABILITY[0]):
            resource["contained"] = [_probability(item, number) for number, item in enumerate(measured, 1)]
            resource["hasMember"] = [
                {"reference": f"#{contained['id']}", "type": "Observation"} for contained in resource["contained"]
            ]
        note = f"{_tracking_identifier(group)}. {_comment(group)}" if _is_of_series(group) else _comment(group)
        resource["note"] = [{"text": note}]
        return resource

    def _device(self) -> Resource:
        """The model, from its Contributing Equipment item in the report."""
        model = self._report.ContributingEquipmentSequence[0]
        return {
            "resourceType": "Device",
            "identifier": [_uid(str(model.DeviceUID))],
            "status": "active",
            "manufacturer": str(model.Manufacturer),
            "deviceName": [{"name": str(model.ManufacturerModelName), "type": "model-name"}],
            "version": [{"value": str(model.SoftwareVersions)}],
            "serialNumber": str(model.DeviceSerialNumber),
            "note": [{"text": str(model.ContributionDescription)}],
        }

    def _common(self) -> Resource:
        """The patient, the date of the images and the time of issue."""
        common: Resource = {"issued": self._issued}
        if patient_id := str(self._report.get("PatientID") or ""):
            medical_record = {"coding": [{"system": f"{_TERMINOLOGY}/v2-0203", "code": "MR"}]}
            identifier: Resource = {"type": medical_record, "value": patient_id}
            if issuer := str(self._report.get("IssuerOfPatientID") or ""):
                identifier["assigner"] = {"display": issuer}
            common["subject"] = {"type": "Patient", "identifier": identifier}
        if date := str(self._report.get("StudyDate") or ""):
            common["effectiveDateTime"] = f"{date[:4]}-{date[4:6]}-{date[6:8]}"
        return common

    def _study(self) -> Resource:
        return {"type": "ImagingStudy", "identifier": _uid(str(self._report.StudyInstanceUID))}


def _findings(group: Dataset) -> list[Dataset]:
    return _children(group, standard.FINDING[0])


def _comment(group: Dataset) -> str:
    return str(_child(group, standard.COMMENT[0]).TextValue)


def _why_not_assessed(group: Dataset) -> str:
    match = re.search(r"^Not assessed: .*$", _comment(group), re.MULTILINE)
    return match[0] if match else "Not assessed"


def _tracking_identifier(group: Dataset) -> str:
    return str(_child(group, "112039").TextValue)


def _tracking_uid(group: Dataset) -> str:
    return str(_child(group, "112040").UID)


def _is_of_series(group: Dataset) -> bool:
    return _tracking_identifier(group).startswith(standard.SERIES_GROUPS)


def _probability(measurement: Dataset, number: int) -> Resource:
    """The probability of a class, which is the modifier of the measurement."""
    [modifier] = measurement.ContentSequence
    value = measurement.MeasuredValueSequence[0]
    return {
        "resourceType": "Observation",
        "id": f"probability-{number}",
        "status": "preliminary",
        "code": _concept(_name(measurement)),
        "valueQuantity": {"value": float(value.NumericValue), "system": _SYSTEMS["UCUM"], "code": "1"},
        "component": [
            {"code": _concept(_name(modifier)), "valueCodeableConcept": _concept(modifier.ConceptCodeSequence[0])}
        ],
    }


def _presence(group: Dataset) -> Dataset:
    """The first evaluation of a group: what is present, absent or undetermined. Raises ValueError where none is."""
    values = {code[0] for code in (standard.PRESENT, standard.ABSENT, standard.UNDETERMINED)}
    for child in group.ContentSequence:
        if "ConceptCodeSequence" in child and child.ConceptCodeSequence[0].CodeValue in values:
            return child
    raise ValueError("an item is missing")


def _children(item: Dataset, code: str) -> list[Dataset]:
    return list(_named(item, code))


def _child(item: Dataset, code: str) -> Dataset:
    """The first content item of that name. Raises ValueError where there is none."""
    for child in _named(item, code):
        return child
    raise ValueError("an item is missing")


def _named(item: Dataset, code: str) -> Iterator[Dataset]:
    return (child for child in item.ContentSequence if _name(child).get("CodeValue") == code)


def _name(item: Dataset) -> Dataset:
    name: Dataset = item.ConceptNameCodeSequence[0]
    return name


def _concept(code: Dataset) -> Resource:
    """A coded concept; a scheme without a URI in FHIR is omitted, its meaning is not."""
    system = _SYSTEMS.get(str(code.CodingSchemeDesignator))
    coding = {"system": system, "code": str(code.CodeValue), "display": str(code.CodeMeaning)}
    return {"coding": [{key: value for key, value in coding.items() if value}], "text": str(code.CodeMeaning)}


def _uid(uid: str) -> Resource:
    """A DICOM UID as an identifier (FHIR R4 ImagingStudy, 13.6.4)."""
    return {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}


def _reference(resource: Resource) -> Resource:
    return {"reference": _address(resource["identifier"][0]), "type": resource["resourceType"]}


def _address(identifier: Resource) -> str:
    """The fullUrl of an entry of a Bundle: the same for the same identifier."""
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, identifier['value'])}"
