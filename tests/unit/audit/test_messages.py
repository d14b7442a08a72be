"""Every audited event is a message of PS3.15 A.5.1, with codes that PS3.16 has."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from worker.audit import events
from worker.audit.events import Transferred
from worker.audit.messages import Action, AuditEvent, EventCode, EventSubject, Participant, encode

SCHEMA = etree.RelaxNG(etree.parse(str(Path(__file__).with_name("audit-message.rng"))))
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
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
    "retrieved": events.retrieved("ward", "10.0.0.1", SOME),
    "pixels_deleted": events.pixels_deleted("host:1", SOME),
    "access_denied": events.access_denied("unknown", "10.0.0.1", "/api/v1/results", "token missing"),
    "signed_in": events.signed_in("ward", "10.0.0.1"),
    "signed_out": events.signed_out("ward", "10.0.0.1"),
    "queried": events.queried("ward", "10.0.0.1", "/api/v1/results", {"label": "glioma", "patient_id": "P-1"}),
    "viewed": events.viewed("ward", "10.0.0.1", "1.2.3"),
    "annotated": events.annotated("reader", "10.0.0.1", "1.2.3"),
    "model_changed": events.model_changed("root", None, "activated", "brain-mri-tumour", "0.2.1", "ab" * 32),
    "operated": events.operated("ward", None, "worker jobs retry"),
    "exported": events.exported("root", None, "worker results export", "/tmp/x.csv"),
    "imported": events.imported("root", "/backup"),
    "token_changed": events.token_changed("root", "ward", "revoked"),
    "trail_read": events.trail_read("root", "/var/audit"),
}


def _valid(event: AuditEvent) -> etree._Element:
    message = encode(event, MOMENT, "host")
    assert "\n" not in message
    root = etree.fromstring(message)
    SCHEMA.assertValid(root)
    return root


def test_every_event_is_here() -> None:
    made = {name for name, value in vars(events).items() if callable(value) and not name.startswith("_")}
    assert {name for name in made if name[0].islower()} - {"unrecorded", "dataclass", "urlencode"} == set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_follows_the_schema_and_its_codes_exist(name: str) -> None:
    root = _valid(EVENTS[name])
    assert root.find("EventIdentification").get("EventDateTime") == "2026-01-02T03:04:05.678+00:00"
    for one in root.iter("EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode"):
        if one.get("codeSystemName") == "DCM":
            assert _dicom_codes()[one.get("csd-code")] == one.get("originalText")


@cache
def _dicom_codes() -> dict[str, str]:
    made = (getattr(codes.DCM, name) for name in dir(codes.DCM))
    return {code.value: code.meaning for code in made if isinstance(code, DicomCode)}


def test_the_schema_refuses_what_is_no_message() -> None:
    message = encode(EVENTS["received"], MOMENT, "host")
    for good, bad in (
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ("AuditSourceIdentification", "AuditSource"),
        ('csd-code="110104"', 'code="110104"'),
        ("ParticipantObjectName>", "Name>"),
    ):
        assert good in message
        assert not SCHEMA.validate(etree.fromstring(message.replace(good, bad)))


def test_a_transfer_names_both_sides_the_study_and_the_number() -> None:
    root = _valid(EVENTS["received"])
    roles = [one.find("RoleIDCode").get("csd-code") for one in root.iter("ActiveParticipant")]
    assert roles == ["110153", "110152"]
    assert root.find(".//ParticipantObjectDescription/SOPClass").attrib == {"UID": MR, "NumberOfInstances": "24"}
    assert [one.get("ParticipantObjectID") for one in root.iter("ParticipantObjectIdentification")] == ["1.2.3", "P-1"]


def test_a_search_by_patient_does_not_say_for_whom() -> None:
    query = base64.b64decode(_valid(EVENTS["queried"]).findtext(".//ParticipantObjectQuery")).decode()
    assert query == "label=glioma&patient_id=%2A%2A%2A"


def test_an_argument_that_is_no_text_is_recorded_all_the_same() -> None:
    _valid(events.queried("root", None, "worker results list", {"label": "\udcff"}))


@settings(deadline=None, max_examples=100)
@given(st.text(), st.text())
def test_whatever_a_peer_calls_itself_is_one_line_of_valid_xml(hostile: str, other: str) -> None:
    event = AuditEvent(
        EventCode("110113", "Security Alert"),
        Action.EXECUTE,
        (Participant(hostile, address=other, alternative_user_id=other),),
        description=hostile,
        subjects=(EventSubject(other, EventCode("12", "URI", "RFC-3881"), 2, 13, name=hostile),),
    )
    _valid(event)
