"""The encoding of audit messages follows the schema of PS3.15 A.5.1, whatever the texts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.testbed.audit_messages import MOMENT, SCHEMA, validated
from worker.audit.messages import MAXIMUM_TEXT, Action, AuditEvent, EventCode, EventSubject, Participant, encode

MR = "1.2.840.10008.5.1.4.1.1.4"
TRANSFER = AuditEvent(
    EventCode("110104", "DICOM Instances Transferred"),
    Action.CREATE,
    (Participant("PACS", True, EventCode("110153", "Source Role ID")), Participant("AI_WORKER")),
    subjects=(EventSubject("1.2.3", EventCode("110180", "Study Instance UID"), 2, 3, sop_classes=((MR, 24),)),),
)


def test_the_schema_refuses_what_is_no_message() -> None:
    message = encode(TRANSFER, MOMENT, "host")
    for good, bad in (
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ("AuditSourceIdentification", "AuditSource"),
        ('csd-code="110104"', 'code="110104"'),
        ("ParticipantObjectName>", "Name>"),
    ):
        assert good in message
        assert not SCHEMA.validate(etree.fromstring(message.replace(good, bad)))


@settings(deadline=None, max_examples=100)
@given(st.text(), st.text())
def test_whatever_a_peer_calls_itself_is_a_line_of_valid_xml(hostile: str, other: str) -> None:
    event = AuditEvent(
        EventCode("110113", "Security Alert"),
        Action.EXECUTE,
        (Participant(hostile, address=other, alternative_user_id=other),),
        description=hostile,
        subjects=(EventSubject(other, EventCode("12", "URI", "RFC-3881"), 2, 13, name=hostile),),
    )
    validated(event)


def test_a_text_is_cut_and_an_empty_one_is_unknown() -> None:
    root = validated(AuditEvent(TRANSFER.id, Action.READ, (Participant("x" * 1000), Participant(" \n"))))
    names = [participant.get("UserID") for participant in root.iter("ActiveParticipant")]
    assert names == ["x" * (MAXIMUM_TEXT - 1) + "\u2026", "unknown"]
