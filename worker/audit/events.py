"""The audited events, each as its message in PS3.15 A.5.3. Codes: PS3.16 CID 400, 401 and 402."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from worker.audit.messages import Action, AuditEvent, EventCode, EventOutcome, EventSubject, Participant

RecordEvent = Callable[[AuditEvent], None]

_APPLICATION_ACTIVITY = EventCode("110100", "Application Activity")
_AUDIT_LOG_USED = EventCode("110101", "Audit Log Used")
_INSTANCES_ACCESSED = EventCode("110103", "DICOM Instances Accessed")
_INSTANCES_TRANSFERRED = EventCode("110104", "DICOM Instances Transferred")
_STUDY_DELETED = EventCode("110105", "DICOM Study Deleted")
_EXPORT = EventCode("110106", "Export")
_IMPORT = EventCode("110107", "Import")
_QUERY = EventCode("110112", "Query")
_SECURITY_ALERT = EventCode("110113", "Security Alert")
_USER_AUTHENTICATION = EventCode("110114", "User Authentication")

_START = EventCode("110120", "Application Start")
_STOP = EventCode("110121", "Application Stop")
_LOGIN = EventCode("110122", "Login")
_LOGOUT = EventCode("110123", "Logout")
_NODE_AUTHENTICATION = EventCode("110126", "Node Authentication")
_SOFTWARE_CONFIGURATION = EventCode("110131", "Software Configuration")
_RESTRICTED_FUNCTION = EventCode("110132", "Use of Restricted Function")
_USER_SECURITY_CHANGED = EventCode("110137", "User Security Attributes Changed")

_APPLICATION = EventCode("110150", "Application")
_DESTINATION = EventCode("110152", "Destination Role ID")
_SOURCE = EventCode("110153", "Source Role ID")
_SOURCE_MEDIA = EventCode("110155", "Source Media")
_DESTINATION_MEDIA = EventCode("110154", "Destination Media")

_NODE_ID = EventCode("110182", "Node ID")
_STUDY_UID = EventCode("110180", "Study Instance UID")
_SOP_CLASS_UID = EventCode("110181", "SOP Class UID")
_URI = EventCode("12", "URI", "RFC-3881")
_PATIENT_NUMBER = EventCode("2", "Patient Number", "RFC-3881")


_STUDIES_NAMED = 100  # in a message


def unrecorded(_event: AuditEvent) -> None:
    """The RecordEvent of code that runs outside the service."""


# --- the service -----------------------------------------------------------------------------------------------


def started(role: str, process: str) -> AuditEvent:
    """A role's process has started."""
    return AuditEvent(_APPLICATION_ACTIVITY, Action.EXECUTE, (_process(role, process),), type=_START)


def stopped(role: str, process: str) -> AuditEvent:
    """A role's process ends."""
    return AuditEvent(_APPLICATION_ACTIVITY, Action.EXECUTE, (_process(role, process),), type=_STOP)


def _process(role: str, process: str) -> Participant:
    return Participant(f"worker serve --role {role}", role=_APPLICATION, alternative_user_id=process)


# --- DICOM -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transferred:
    """The transferred instances of a study: their number per SOP class."""

    study_instance_uid: str
    patient_id: str
    sop_classes: Mapping[str, int]


def connected(calling: str, address: str, called: str) -> AuditEvent:
    """An association was accepted. A Security Alert of a success is informative (PS3.15 A.5.3.11)."""
    return _node(calling, address, called, EventOutcome.SUCCESS, None)


def connection_refused(calling: str, address: str, called: str, reason: str) -> AuditEvent:
    """An association, or a connection before it, was refused: network, certificate, AE title, limit reached."""
    return _node(calling, address, called, EventOutcome.MINOR_FAILURE, reason)


def _node(calling: str, address: str, called: str, outcome: EventOutcome, reason: str | None) -> AuditEvent:
    return AuditEvent(
        _SECURITY_ALERT,
        Action.EXECUTE,
        (_entity(called), _entity(calling, address, is_requestor=True)),
        type=_NODE_AUTHENTICATION,
        outcome=outcome,
        description=reason,
        subjects=(EventSubject(calling, _NODE_ID, 2, 13),),
    )


def received(calling: str, address: str, ours: str, transferred: Transferred) -> AuditEvent:
    """Instances of a study were received over an association that has ended."""
    participants = (_entity(calling, address, _SOURCE, is_requestor=True), _entity(ours, None, _DESTINATION))
    return _transfer(Action.CREATE, participants, transferred)


def sent(ours: str, destination: str, address: str, transferred: Transferred) -> AuditEvent:
    """Reports and pictures of a study were accepted by a destination."""
    participants = (_entity(ours, None, _SOURCE, is_requestor=True), _entity(destination, address, _DESTINATION))
    return _transfer(Action.READ, participants, transferred)


def fetched(calling: str, address: str, ours: str, to: str, to_address: str, transferred: Transferred) -> AuditEvent:
    """Instances of a study were sent to an application entity at the request of `calling` (C-GET, C-MOVE)."""
    participants = [_entity(ours, None, _SOURCE), _entity(to, to_address, _DESTINATION, is_requestor=to == calling)]
    if to != calling:
        participants.append(_entity(calling, address, is_requestor=True))
    return _transfer(Action.READ, tuple(participants), transferred)


# The keys of a search whose values are recorded: none of them names a patient.
KEYS_SHOWN = frozenset(
    {
        "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "StudyDate", "Modality",
        "ModalitiesInStudy",
    }
)  # fmt: skip


def searched(calling: str, address: str, ours: str, sop_class_uid: str, query: Mapping[str, str]) -> AuditEvent:
    """A C-FIND: its keys and values; the values of a patient's identifiers are masked."""
    subject = EventSubject(sop_class_uid, _SOP_CLASS_UID, 2, 3, query=_masked(query))
    participants = (_entity(calling, address, _SOURCE, is_requestor=True), _entity(ours, None, _DESTINATION))
    return AuditEvent(_QUERY, Action.EXECUTE, participants, subjects=(subject,))


def _transfer(action: Action, participants: tuple[Participant, ...], transferred: Transferred) -> AuditEvent:
    study = _study(transferred.study_instance_uid, transferred.sop_classes)
    return AuditEvent(_INSTANCES_TRANSFERRED, action, participants, subjects=(study, *_patient(transferred.patient_id)))


def retrieved(name: str, address: str | None, transferred: Transferred) -> AuditEvent:
    """Instances of a study were retrieved over the web (WADO-RS)."""
    return _transfer(Action.READ, (Participant(name, True, _DESTINATION, address=address),), transferred)


def pixels_deleted(process: str, transferred: Transferred) -> AuditEvent:
    """Retention deleted received files of a study."""
    study = _study(transferred.study_instance_uid, transferred.sop_classes)
    return _accessed(Action.DELETE, "retention", process, (study, *_patient(transferred.patient_id)))


def study_deleted(name: str, address: str | None, transferred: Transferred) -> AuditEvent:
    """An operator deleted a study with all that was made of it."""
    study = _study(transferred.study_instance_uid, transferred.sop_classes)
    subjects = (study, *_patient(transferred.patient_id))
    return AuditEvent(_STUDY_DELETED, Action.DELETE, (Participant(name, True, address=address),), subjects=subjects)


def file_fault(process: str, path: str, fault: str) -> AuditEvent:
    """A stored file was found damaged or missing; its path is made of hashes."""
    outcome = EventOutcome.SERIOUS_FAILURE
    return _accessed(Action.READ, "storage", process, (_uri(path),), f"a stored file is {fault}", outcome)


def attributes_left_out(process: str, study_instance_uid: str, keywords: Sequence[str]) -> AuditEvent:
    """A series' report was made without attributes of its images, as they do not fit their value representations."""
    description = f"left out of the report, as it does not fit its VR: {', '.join(keywords)}"
    subjects = (_study(study_instance_uid),)
    return _accessed(Action.CREATE, "infer", process, subjects, description, EventOutcome.MINOR_FAILURE)


def file_replaced(process: str, path: str, fault: str, study_instance_uid: str) -> AuditEvent:
    """A damaged or missing file was replaced by the same content, which was sent again."""
    description = f"a stored file that was {fault} was replaced by the same instance, sent again"
    return _accessed(Action.UPDATE, "storage", process, (_study(study_instance_uid), _uri(path)), description)


def corrected(process: str, before: Transferred, after: Transferred, by: str | None = None) -> AuditEvent:
    """Instances got other attributes: they were sent again with them, or `by` accepted them."""
    subjects = [_study(before.study_instance_uid, before.sop_classes), *_patient(before.patient_id)]
    if after.study_instance_uid != before.study_instance_uid:
        subjects.append(_study(after.study_instance_uid, after.sop_classes))
    if after.patient_id != before.patient_id:
        subjects += _patient(after.patient_id)
    description = "instances were corrected: their earlier versions are kept, their series are settled again"
    return _accessed(Action.UPDATE, "storage", process, tuple(subjects), description, user=by)


def attributes_changed(process: str, study_instance_uid: str, patient_id: str) -> AuditEvent:
    """The newest images of a study name other attributes of patient or study than those before, of the same patient."""
    description = "patient or study attributes differ from those of earlier images; the newest count from now on"
    subjects = (_study(study_instance_uid), *_patient(patient_id))
    return _accessed(Action.UPDATE, "receive", process, subjects, description)


def _accessed(
    action: Action,
    part: str,
    process: str,
    subjects: tuple[EventSubject, ...],
    description: str | None = None,
    outcome: EventOutcome = EventOutcome.SUCCESS,
    user: str | None = None,
) -> AuditEvent:
    """A part of the worker accessed instances; `user` is who had it do so, where a person did."""
    participants = [Participant(part, role=_APPLICATION, alternative_user_id=process)]
    if user is not None:
        participants.append(Participant(user, True))
    return AuditEvent(
        _INSTANCES_ACCESSED,
        action,
        tuple(participants),
        outcome=outcome,
        description=description,
        subjects=subjects,
    )


def _entity(
    ae_title: str, address: str | None = None, role: EventCode | None = None, *, is_requestor: bool = False
) -> Participant:
    # PS3.15 A.5.2.2: the application entity's titles of a process.
    return Participant(ae_title, is_requestor, role, f"AETITLES={ae_title}", address)


# --- the web interface -----------------------------------------------------------------------------------------


def access_denied(name: str, address: str, path: str, reason: str) -> AuditEvent:
    """A credential is missing, wrong, expired or revoked, or its role does not allow the request."""
    return AuditEvent(
        _USER_AUTHENTICATION,
        Action.EXECUTE,
        (Participant(name, True, address=address),),
        type=_LOGIN,
        outcome=EventOutcome.MINOR_FAILURE,
        description=reason,
        subjects=(_uri(path),),
    )


def signed_in(name: str, address: str) -> AuditEvent:
    """A browser session was opened with a token."""
    return AuditEvent(_USER_AUTHENTICATION, Action.EXECUTE, (Participant(name, True, address=address),), type=_LOGIN)


def signed_out(name: str, address: str) -> AuditEvent:
    """A browser session was closed."""
    return AuditEvent(_USER_AUTHENTICATION, Action.EXECUTE, (Participant(name, True, address=address),), type=_LOGOUT)


def queried(name: str, address: str | None, where: str, query: Mapping[str, str]) -> AuditEvent:
    """A search: its keys and values; the values of a patient's identifiers are masked."""
    subject = EventSubject(where, _URI, 2, 3, query=_masked(query))
    return AuditEvent(_QUERY, Action.EXECUTE, (Participant(name, True, address=address),), subjects=(subject,))


_IDENTIFYING = frozenset({"text", "patient_id", "patient_name", "accession", "accession_number"})


def _masked(query: Mapping[str, str]) -> str:
    """A query as URL-encoded text, with *** for the values of a patient's identifiers."""
    shown = {key: "***" if key in _IDENTIFYING else value for key, value in query.items()}
    return urlencode(shown, errors="replace")


def viewed(name: str, address: str | None, study_instance_uid: str) -> AuditEvent:
    """Data of a study were shown to a user."""
    return AuditEvent(
        _INSTANCES_ACCESSED,
        Action.READ,
        (Participant(name, True, address=address),),
        subjects=(_study(study_instance_uid),),
    )


def annotated(name: str, address: str | None, study_instance_uid: str) -> AuditEvent:
    """A reader recorded a finding on a series of a study."""
    return AuditEvent(
        _INSTANCES_ACCESSED,
        Action.UPDATE,
        (Participant(name, True, address=address),),
        description="the label of a series was confirmed or corrected",
        subjects=(_study(study_instance_uid),),
    )


def withdrawn(name: str, address: str | None, study_instance_uid: str) -> AuditEvent:
    """A reader withdrew the finding on a study or on a series of it."""
    return AuditEvent(
        _INSTANCES_ACCESSED,
        Action.UPDATE,
        (Participant(name, True, address=address),),
        description="a reader's finding was withdrawn",
        subjects=(_study(study_instance_uid),),
    )


def operated(name: str, address: str | None, what: str, studies: Sequence[str] = ()) -> AuditEvent:
    """An operator's action was carried out, for example a retry; on these studies, of which the first are named."""
    return AuditEvent(
        _SECURITY_ALERT,
        Action.EXECUTE,
        (Participant(name, True, address=address),),
        type=_RESTRICTED_FUNCTION,
        subjects=(_uri(what), *(_study(uid) for uid in studies[:_STUDIES_NAMED])),
    )


def model_changed(user: str, address: str | None, what: str, name: str, version: str, sha256: str) -> AuditEvent:
    """A model was added, put in shadow, activated, retired or removed, or an activation was undone."""
    return AuditEvent(
        _SECURITY_ALERT,
        Action.EXECUTE,
        (Participant(user, True, address=address),),
        type=_SOFTWARE_CONFIGURATION,
        description=what,
        subjects=(_uri(f"model {name} {version}, bundle {sha256}"),),
    )


# --- commands --------------------------------------------------------------------------------------------------


def exported(name: str, address: str | None, what: str, where: str) -> AuditEvent:
    """Data were exported to a file: results as a table, a backup."""
    medium = Participant(where, role=_DESTINATION_MEDIA)
    return AuditEvent(_EXPORT, Action.READ, (Participant(name, True, address=address), medium), subjects=(_uri(what),))


def imported(name: str, where: str) -> AuditEvent:
    """A backup was restored."""
    medium = Participant(where, role=_SOURCE_MEDIA)
    return AuditEvent(_IMPORT, Action.CREATE, (Participant(name, True), medium), subjects=(_uri("backup"),))


def token_changed(name: str, token: str, what: str) -> AuditEvent:
    """A token was created or revoked."""
    return AuditEvent(
        _SECURITY_ALERT,
        Action.EXECUTE,
        (Participant(name, True),),
        type=_USER_SECURITY_CHANGED,
        description=what,
        subjects=(EventSubject(token, _NODE_ID, 2, 11),),
    )


def trail_read(name: str, what: str) -> AuditEvent:
    """The audit trail was read."""
    subject = EventSubject(what, _URI, 2, 13, name="Security Audit Log")
    return AuditEvent(_AUDIT_LOG_USED, Action.READ, (Participant(name, True),), subjects=(subject,))


def _patient(patient_id: str) -> tuple[EventSubject, ...]:
    """The subject of a patient; a recorder drops it unless `[audit] patient_ids` is set."""
    return (EventSubject(patient_id, _PATIENT_NUMBER, 1, 1, name=patient_id),) if patient_id else ()


def _study(uid: str, sop_classes: Mapping[str, int] | None = None) -> EventSubject:
    return EventSubject(uid, _STUDY_UID, 2, 3, sop_classes=tuple(sorted((sop_classes or {}).items())))


def _uri(text: str) -> EventSubject:
    return EventSubject(text, _URI, 2, 13)
