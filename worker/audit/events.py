"""What is audited, each as the message that PS3.15 A.5.3 has for it. Codes: PS3.16 CID 400, 401 and 402."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from worker.audit.messages import Action, AuditEvent, Code, Outcome, Participant, Subject

Record = Callable[[AuditEvent], None]

_APPLICATION_ACTIVITY = Code("110100", "Application Activity")
_AUDIT_LOG_USED = Code("110101", "Audit Log Used")
_INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
_INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
_EXPORT = Code("110106", "Export")
_IMPORT = Code("110107", "Import")
_QUERY = Code("110112", "Query")
_SECURITY_ALERT = Code("110113", "Security Alert")
_USER_AUTHENTICATION = Code("110114", "User Authentication")

_START = Code("110120", "Application Start")
_STOP = Code("110121", "Application Stop")
_LOGIN = Code("110122", "Login")
_LOGOUT = Code("110123", "Logout")
_NODE_AUTHENTICATION = Code("110126", "Node Authentication")
_RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
_USER_SECURITY_CHANGED = Code("110137", "User Security Attributes Changed")

_APPLICATION = Code("110150", "Application")
_DESTINATION = Code("110152", "Destination Role ID")
_SOURCE = Code("110153", "Source Role ID")
_SOURCE_MEDIA = Code("110155", "Source Media")
_DESTINATION_MEDIA = Code("110154", "Destination Media")

_STUDY_UID = Code("110180", "Study Instance UID")
_URI = Code("12", "URI", "RFC-3881")
_PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")


def unrecorded(_event: AuditEvent) -> None:
    """The Record of a part that is used outside the service."""


# --- the web interface -----------------------------------------------------------------------------------------


def access_denied(name: str, address: str, path: str, reason: str) -> AuditEvent:
    """A credential that is missing, wrong, expired or revoked, or does not allow what was asked for."""
    return AuditEvent(
        _USER_AUTHENTICATION,
        Action.EXECUTE,
        (Participant(name, True, address=address),),
        type=_LOGIN,
        outcome=Outcome.MINOR_FAILURE,
        description=reason,
        subjects=(_uri(path),),
    )


def signed_in(name: str, address: str) -> AuditEvent:
    return AuditEvent(_USER_AUTHENTICATION, Action.EXECUTE, (Participant(name, True, address=address),), type=_LOGIN)


def signed_out(name: str, address: str) -> AuditEvent:
    return AuditEvent(_USER_AUTHENTICATION, Action.EXECUTE, (Participant(name, True, address=address),), type=_LOGOUT)


def queried(name: str, address: str | None, where: str, query: Mapping[str, str]) -> AuditEvent:
    """A search: its keys and values, but of an identifier of a patient only that it was asked for."""
    asked = {key: "***" if key in _IDENTIFYING else value for key, value in query.items()}
    subject = Subject(where, _URI, 2, 3, query=urlencode(asked))
    return AuditEvent(_QUERY, Action.EXECUTE, (Participant(name, True, address=address),), subjects=(subject,))


_IDENTIFYING = frozenset({"patient_id", "patient_name", "accession", "accession_number"})


def viewed(name: str, address: str | None, study_instance_uid: str) -> AuditEvent:
    """What is known of a study was shown to somebody."""
    return AuditEvent(
        _INSTANCES_ACCESSED,
        Action.READ,
        (Participant(name, True, address=address),),
        subjects=(_study(study_instance_uid),),
    )


def operated(name: str, address: str | None, what: str) -> AuditEvent:
    """Something that only an operator may do was done: a retry, for example."""
    return AuditEvent(
        _SECURITY_ALERT,
        Action.EXECUTE,
        (Participant(name, True, address=address),),
        type=_RESTRICTED_FUNCTION,
        subjects=(_uri(what),),
    )


def _study(uid: str, sop_classes: Mapping[str, int] | None = None) -> Subject:
    return Subject(uid, _STUDY_UID, 2, 3, sop_classes=tuple(sorted((sop_classes or {}).items())))


def _uri(text: str) -> Subject:
    return Subject(text, _URI, 2, 13)
