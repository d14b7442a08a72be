"""The sub-operations of a C-MOVE or C-GET (PS3.4 C.4.2, C.4.3): files are sent as they are stored."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext

from worker.audit.events import Transferred
from worker.config.sections import ApplicationEntity
from worker.db.views.archive import Instance
from worker.dicom import standard
from worker.dicom.header import parse_message
from worker.dicom.odd_values import ignore_value_warnings
from worker.errors import Retry
from worker.logs import fault_fields, get_log
from worker.network import pynetdicom_patches as patches
from worker.network.associate import associate
from worker.query_retrieve.identifiers import Mismatch
from worker.storage.integrity import FaultyFile, Integrity

SUB_OPERATIONS_AT_MOST = 65535  # PS3.7 9.1.3: the counts are of VR US
_STATUSES_WITH_FAILED = (
    standard.CANCEL,
    standard.SUB_OPERATIONS_WITH_FAILURES,
    standard.UNABLE_TO_PERFORM_SUB_OPERATIONS,
)
_FAILED_AT_MOST = 900  # PS3.5 7.1.2: 64 KiB of explicit VR
_CONTEXTS_AT_MOST = 126  # PS3.8 9.3.2.2: odd numbers from 1 to 255
_TIMEOUT_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 0.05
# Convertible to the default transfer syntax, which every peer supports (PS3.5 10.1), with no pixel decoded.
_CONVERTIBLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


@dataclass
class RetrieveRequest:
    """A C-MOVE or C-GET request and its responses."""

    assoc: Association
    message: Any
    context: PresentationContext
    remaining: int = 0
    completed: int = 0
    warned: int = 0
    failed: list[str] = field(default_factory=list)
    arrived: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)  # (study, patient) → SOP classes

    @property
    def is_get(self) -> bool:
        return isinstance(self.message, C_GET)

    @property
    def model(self) -> str:
        return str(self.context.abstract_syntax)

    @property
    def destination(self) -> str:
        """Without its padding, which some senders make of NUL (PS3.5 6.2: spaces)."""
        return str(self.message.MoveDestination).strip(" \0")

    @property
    def is_cancelled(self) -> bool:
        return self.message.MessageID in self.assoc.dimse.cancel_req

    @property
    def is_abandoned(self) -> bool:
        """The peer has aborted the association, or requests its release while it waits."""
        acse = self.assoc.acse
        return not self.assoc.is_established or bool(acse.is_aborted() or acse.is_release_requested())

    @ignore_value_warnings()
    def identifier(self) -> Dataset:
        """The identifier of the request. Raises Mismatch where it cannot be read."""
        syntax = self.context.transfer_syntax[0]
        try:
            return parse_message(
                self.message.Identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated
            )
        except Exception as error:  # hostile bytes may raise anything in a parser
            raise Mismatch from error

    def transferred(self) -> list[Transferred]:
        """The instances that arrived, by study."""
        return [Transferred(study, patient, classes) for (study, patient), classes in self.arrived.items()]

    def pend(self) -> None:
        """Send a pending response with the counts."""
        self._respond(standard.PENDING)

    def end(self, status: int) -> None:
        """Send the final response."""
        self._respond(status)

    def finish(self) -> None:
        """Send the final response with the status of the counts (PS3.4 Tables C.4-2 and C.4-3)."""
        if not self.failed and not self.warned:
            self.end(standard.SUCCESS)
        elif self.completed or self.warned:
            self.end(standard.SUB_OPERATIONS_WITH_FAILURES)
        else:
            self.end(standard.UNABLE_TO_PERFORM_SUB_OPERATIONS)

    def _respond(self, status: int) -> None:
        if not self.assoc.is_established:
            return
        response = C_GET() if self.is_get else C_MOVE()
        response.MessageIDBeingRespondedTo = self.message.MessageID
        response.AffectedSOPClassUID = self.message.AffectedSOPClassUID
        response.Status = status
        if status in (standard.PENDING, standard.CANCEL):
            response.NumberOfRemainingSuboperations = self.remaining
        response.NumberOfCompletedSuboperations = self.completed
        response.NumberOfWarningSuboperations = self.warned
        response.NumberOfFailedSuboperations = len(self.failed)
        if status in _STATUSES_WITH_FAILED:
            identifier = Dataset()
            identifier.FailedSOPInstanceUIDList = self.failed[:_FAILED_AT_MOST]
            syntax = self.context.transfer_syntax[0]
            response.Identifier = BytesIO(
                encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated) or b""
            )
        self.assoc.dimse.send_msg(response, self.context.context_id)


def send_all(
    request: RetrieveRequest,
    instances: Sequence[Instance],
    integrity: Integrity,
    destination: ApplicationEntity | None,
    ae_title: str,
) -> None:
    """Store every instance at the destination of a C-MOVE, or over the association of a C-GET, and respond.

    A cancellation or the end of the association stops this between two instances.
    """
    request.remaining = len(instances)
    if not instances:
        request.end(standard.SUCCESS)
        return
    if destination is None:
        _send_over(request, request.assoc, instances, integrity)
        return
    try:
        assoc = _associate(destination, instances, ae_title)
    except Retry as fault:
        get_log().warning("instances not moved", reason=fault.reason)
        request.failed, request.remaining = [instance.sop_instance_uid for instance in instances], 0
        request.end(standard.UNABLE_TO_PERFORM_SUB_OPERATIONS)
        return
    try:
        _send_over(request, assoc, instances, integrity)
    finally:
        if assoc.is_established:
            assoc.release()


def _send_over(
    request: RetrieveRequest, assoc: Association, instances: Sequence[Instance], integrity: Integrity
) -> None:
    for instance in instances:
        if request.is_abandoned:
            return
        if request.is_cancelled:
            request.end(standard.CANCEL)
            return
        started = time.monotonic()
        status = _store(request, assoc, instance, integrity)
        time.sleep(min(time.monotonic() - started, _LONGEST_PAUSE_SECONDS))  # receiving has priority
        request.remaining -= 1
        if status is not None and standard.is_stored(status):
            request.completed += status == standard.SUCCESS
            request.warned += status != standard.SUCCESS
            study = (instance.study_instance_uid, instance.patient_id)
            request.arrived.setdefault(study, Counter())[instance.sop_class_uid] += 1
        else:
            request.failed.append(instance.sop_instance_uid)
        if request.remaining:
            request.pend()
    request.finish()


def _store(request: RetrieveRequest, assoc: Association, instance: Instance, integrity: Integrity) -> int | None:
    """C-STORE of a file; the peer's status, None where it could not be sent."""
    if instance.file is None:
        return None
    try:
        path = integrity.path(instance.file)
    except FaultyFile:
        return None
    originator = {} if request.is_get else {
        "originator_aet": str(request.assoc.requestor.ae_title), "originator_id": request.message.MessageID,
    }  # fmt: skip
    number = (request.message.MessageID + request.completed + request.warned + len(request.failed)) % 65535 + 1
    send = partial(assoc.send_c_store, msg_id=number, **originator)
    try:
        try:
            response = send(path)
        except ValueError:  # no presentation context with this transfer syntax
            if instance.transfer_syntax_uid not in _CONVERTIBLE:
                return None
            response = send(dcmread(path))
    except Exception as error:  # a sub-operation's boundary: the others continue
        patches.resume_reactor(assoc)
        get_log().warning("instance not sent", **fault_fields(error))
        return None
    return int(response.Status) if "Status" in response else None


def _associate(destination: ApplicationEntity, instances: Sequence[Instance], ae_title: str) -> Association:
    """An association with the destination of a C-MOVE, for the classes and transfer syntaxes of the instances.

    Raises Retry.
    """
    pairs = dict.fromkeys((instance.sop_class_uid, instance.transfer_syntax_uid) for instance in instances)
    for sop_class, syntax in list(pairs):
        if syntax in _CONVERTIBLE:
            pairs |= dict.fromkeys((sop_class, other) for other in (ExplicitVRLittleEndian, ImplicitVRLittleEndian))
    contexts = [build_context(*pair) for pair in list(pairs)[:_CONTEXTS_AT_MOST]]
    service = "storage of these instances"
    return associate(destination, ae_title, contexts, service=service, timeout_seconds=_TIMEOUT_SECONDS)


patches.send_files_undecoded()
patches.take_any_move_destination()
