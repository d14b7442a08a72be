"""Every audited event is a message of PS3.15 A.5.1, with codes that PS3.16 has."""

from __future__ import annotations

import base64
from functools import cache

import pytest
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from tests.testbed.audit_messages import validated
from worker.audit import events
from worker.audit.events import Transferred

MR = "1.2.840.10008.5.1.4.1.1.4"
SOME = Transferred("1.2.3", "P-1", {MR: 24})

EVENTS = {
    "started": events.started("receive", "host:1"),
    "stopped": events.stopped("receive", "host:1"),
    "connected": events.connected("PACS", "10.0.0.1", "AI_WORKER"),
    "connection_refused": events.connection_refused("PACS", "10.0.0.1", "X", "Called AE title not recognised"),
    "received": events.received("PACS", "10.0.0.1", "AI_WORKER", SOME),
    "sent": events.sent("AI_WORKER", "PACS", "10.0.0.1", SOME),
    "fetched": events.fetched("VIEWER", "10.0.0.2", "AI_WORKER", "PACS", "pacs.example", SOME),
    "searched": events.searched(
        "VIEWER", "10.0.0.2", "AI_WORKER", "1.2.840.10008.5.1.4.1.2.2.1", {"patient_id": "P-1"}
    ),
    "attributes_left_out": events.attributes_left_out("host:1", "1.2.3", ("PatientID", "AccessionNumber")),
    "file_fault": events.file_fault("host:1", "instances/ab/cd/ef.dcm", "damaged"),
    "file_replaced": events.file_replaced("host:1", "instances/ab/cd/ef.dcm", "missing", "1.2.3"),
    "attributes_changed": events.attributes_changed("host:1", "1.2.3", "P-1"),
    "corrected": events.corrected("host:1", SOME, Transferred("1.2.3", "P-2", {MR: 24})),
    "retrieved": events.retrieved("ward", "10.0.0.1", SOME),
    "pixels_deleted": events.pixels_deleted("host:1", SOME),
    "study_deleted": events.study_deleted("ward", "10.0.0.1", SOME),
    "access_denied": events.access_denied("unknown", "10.0.0.1", "/api/v1/results", "token missing"),
    "signed_in": events.signed_in("ward", "10.0.0.1"),
    "signed_out": events.signed_out("ward", "10.0.0.1"),
    "queried": events.queried("ward", "10.0.0.1", "/api/v1/results", {"label": "glioma", "patient_id": "P-1"}),
    "viewed": events.viewed("ward", "10.0.0.1", "1.2.3"),
    "annotated": events.annotated("reader", "10.0.0.1", "1.2.3"),
    "withdrawn": events.withdrawn("reader", "10.0.0.1", "1.2.3"),
    "model_changed": events.model_changed("root", None, "activated", "brain-mri-tumour", "0.2.1", "ab" * 32),
    "operated": events.operated("ward", None, "worker jobs retry"),
    "exported": events.exported("root", None, "worker results export", "/tmp/x.csv"),
    "imported": events.imported("root", "/backup"),
    "token_changed": events.token_changed("root", "ward", "revoked"),
    "trail_read": events.trail_read("root", "/var/audit"),
}


def test_every_event_is_here() -> None:
    functions = {name for name, value in vars(events).items() if callable(value) and not name.startswith("_")}
    assert {name for name in functions if name[0].islower()} - {"unrecorded", "dataclass", "urlencode"} == set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_follows_the_schema_and_its_codes_exist(name: str) -> None:
    root = validated(EVENTS[name])
    assert root.find("EventIdentification").get("EventDateTime") == "2026-01-02T03:04:05.678+00:00"
    for code in root.iter("EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode"):
        if code.get("codeSystemName") == "DCM":
            assert _dicom_codes()[code.get("csd-code")] == code.get("originalText")


@cache
def _dicom_codes() -> dict[str, str]:
    values = (getattr(codes.DCM, name) for name in dir(codes.DCM))
    return {code.value: code.meaning for code in values if isinstance(code, DicomCode)}


def test_a_transfer_names_both_sides_the_study_and_the_number() -> None:
    root = validated(EVENTS["received"])
    roles = [participant.find("RoleIDCode").get("csd-code") for participant in root.iter("ActiveParticipant")]
    assert roles == ["110153", "110152"]
    assert root.find(".//ParticipantObjectDescription/SOPClass").attrib == {"UID": MR, "NumberOfInstances": "24"}
    subjects = root.iter("ParticipantObjectIdentification")
    assert [subject.get("ParticipantObjectID") for subject in subjects] == ["1.2.3", "P-1"]


@pytest.mark.parametrize(("name", "expected"), [
    ("queried", "label=glioma&patient_id=%2A%2A%2A"), ("searched", "patient_id=%2A%2A%2A"),
])  # fmt: skip
def test_a_search_by_patient_does_not_say_for_whom(name: str, expected: str) -> None:
    query = base64.b64decode(validated(EVENTS[name]).findtext(".//ParticipantObjectQuery")).decode()
    assert query == expected


def test_a_fetch_names_the_destination_and_who_asked_for_it() -> None:
    moved = validated(EVENTS["fetched"])
    fetched = validated(events.fetched("VIEWER", "10.0.0.2", "AI_WORKER", "VIEWER", "10.0.0.2", SOME))
    for root, expected in (
        (moved, [("AI_WORKER", "false"), ("PACS", "false"), ("VIEWER", "true")]),
        (fetched, [("AI_WORKER", "false"), ("VIEWER", "true")]),
    ):
        participants = root.iter("ActiveParticipant")
        assert [(who.get("UserID"), who.get("UserIsRequestor")) for who in participants] == expected


def test_a_refusal_is_a_minor_failure_with_its_reason() -> None:
    identification = validated(EVENTS["connection_refused"]).find("EventIdentification")
    assert identification.get("EventOutcomeIndicator") == "4"
    assert identification.findtext("EventOutcomeDescription") == "Called AE title not recognised"


def test_an_argument_that_is_no_text_is_recorded_all_the_same() -> None:
    validated(events.queried("root", None, "worker results list", {"label": "\udcff"}))
