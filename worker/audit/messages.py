"""Encode an event as a DICOM audit message: the XML of PS3.15 A.5.1, with the fields of A.5.2. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from xml.etree import ElementTree

from worker.wording import counted

MAXIMUM_TEXT = 256
MAXIMUM_QUERY = 2048


@dataclass(frozen=True, slots=True)
class EventCode:
    """A coded value (`csd-code` in the schema)."""

    value: str
    meaning: str
    system: str = "DCM"


class Action(StrEnum):
    """EventActionCode."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class EventOutcome(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


@dataclass(frozen=True, slots=True)
class Participant:
    """ActiveParticipant: a user, a process, an application entity."""

    user_id: str
    is_requestor: bool = False
    role: EventCode | None = None
    alternative_user_id: str | None = None
    address: str | None = None  # an IP address


@dataclass(frozen=True, slots=True)
class EventSubject:
    """ParticipantObjectIdentification: the object of the event."""

    id: str
    id_type: EventCode
    type_code: int  # 1 person, 2 system object
    role: int  # ParticipantObjectTypeCodeRole: 1 patient, 3 report, 13 security resource
    name: str | None = None
    query: str | None = None
    sop_classes: tuple[tuple[str, int], ...] = ()  # (SOP Class UID, number of instances)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An audited event, before it has a time and a source."""

    id: EventCode
    action: Action
    participants: tuple[Participant, ...]
    type: EventCode | None = None
    outcome: EventOutcome = EventOutcome.SUCCESS
    description: str | None = None  # EventOutcomeDescription
    subjects: tuple[EventSubject, ...] = ()


def encode(event: AuditEvent, moment: datetime, source: str) -> str:
    """Encode the message as a single line of XML. `source` names the auditing system (AuditSourceID)."""
    root = ElementTree.Element("AuditMessage")
    identification = ElementTree.SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=moment.astimezone(UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=str(int(event.outcome)),
    )
    _coded(identification, "EventID", event.id)
    if event.type is not None:
        _coded(identification, "EventTypeCode", event.type)
    if event.description:
        ElementTree.SubElement(identification, "EventOutcomeDescription").text = _text(event.description)
    for participant in event.participants:
        _participant(root, participant)
    audit_source = ElementTree.SubElement(root, "AuditSourceIdentification", AuditSourceID=_text(source))
    # RFC 3881 5.4.3: 4 = application server process.
    ElementTree.SubElement(audit_source, "AuditSourceTypeCode", {"csd-code": "4"})
    for subject in event.subjects:
        _subject(root, subject)
    return ElementTree.tostring(root, encoding="unicode")


def _coded(parent: ElementTree.Element, name: str, code: EventCode) -> None:
    ElementTree.SubElement(
        parent, name, {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    )


def _participant(root: ElementTree.Element, participant: Participant) -> None:
    attributes = {
        "UserID": _text(participant.user_id),
        "UserIsRequestor": "true" if participant.is_requestor else "false",
    }
    if participant.alternative_user_id:
        attributes["AlternativeUserID"] = _text(participant.alternative_user_id)
    if participant.address:
        attributes |= {"NetworkAccessPointID": _text(participant.address), "NetworkAccessPointTypeCode": "2"}
    element = ElementTree.SubElement(root, "ActiveParticipant", attributes)
    if participant.role is not None:
        _coded(element, "RoleIDCode", participant.role)


def _subject(root: ElementTree.Element, subject: EventSubject) -> None:
    element = ElementTree.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_text(subject.id),
        ParticipantObjectTypeCode=str(subject.type_code),
        ParticipantObjectTypeCodeRole=str(subject.role),
    )
    _coded(element, "ParticipantObjectIDTypeCode", subject.id_type)
    if subject.query is not None:
        query = subject.query
        if len(query) > MAXIMUM_QUERY:
            query = f"{query[:MAXIMUM_QUERY]} and {counted(len(query) - MAXIMUM_QUERY, 'more character')}"
        encoded = base64.b64encode(query.encode()).decode()
        ElementTree.SubElement(element, "ParticipantObjectQuery").text = encoded
    else:
        ElementTree.SubElement(element, "ParticipantObjectName").text = _text(subject.name or subject.id)
    if subject.sop_classes:
        about = ElementTree.SubElement(element, "ParticipantObjectDescription")
        for uid, number in subject.sop_classes:
            ElementTree.SubElement(about, "SOPClass", UID=uid, NumberOfInstances=str(number))


def _text(value: str) -> str:
    """The text that XML 1.0 can hold, on a single line; an ellipsis ends a text that is cut at MAXIMUM_TEXT."""
    printable = "".join(character if character.isprintable() else " " for character in value).strip()
    if len(printable) > MAXIMUM_TEXT:
        printable = printable[: MAXIMUM_TEXT - 1] + "\u2026"
    return printable or "unknown"
