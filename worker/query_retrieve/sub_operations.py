"""The sub-operations of a C-MOVE or C-GET (PS3.4 C.4.2, C.4.3): files go out as they lie on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
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
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import PresentationContext

from worker.audit.events import Transferred
from worker.config.sections import ApplicationEntity
from worker.db.views.archive import Instance
from worker.dicom import standard
from worker.dicom.header import ignore_value_warnings
from worker.errors import Retry
from worker.logs import fault_fields, get_log
from worker.network import pynetdicom_patches as patches
from worker.network.associate import associate
from worker.query_retrieve.identifiers import Mismatch

SUB_OPERATIONS_AT_MOST = 65535  # PS3.7 9.1.3: the counts are of VR US
_NAMING_FAILED = (standard.CANCEL, standard.SUB_OPERATIONS_WITH_FAILURES, standard.UNABLE_TO_PERFORM_SUB_OPERATIONS)
_NAMED_AT_MOST = 900  # PS3.5 7.1.2: 64 KiB of explicit VR
_CONTEXTS_AT_MOST = 126  # PS3.8 9.3.2.2: odd numbers from 1 to 255
_TIMEOUT_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 0.05
# What any peer that takes the default transfer syntax can be sent: the same values with no pixel decoded (PS3.5 10.1).
_CONVERTIBLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


@dataclass
class Request:
    """A C-MOVE or C-GET request and what is answered to it."""

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
        return str(self.message.MoveDestination).strip()

    @property
    def is_cancelled(self) -> bool:
        return self.message.MessageID in self.assoc.dimse.cancel_req

    @property
    def is_abandoned(self) -> bool:
        """The peer has aborted, or wants to release while it waits."""
        acse = self.assoc.acse
        return not self.assoc.is_established or bool(acse.is_aborted() or acse.is_release_requested())

    @ignore_value_warnings()
    def identifier(self) -> Dataset:
        """Raises Mismatch for one that cannot be read."""
        syntax = self.context.transfer_syntax[0]
        try:
            ds: Dataset = decode(
                self.message.Identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated
            )
        except Exception as error:  # hostile bytes may raise anything in a parser
            raise Mismatch from error
        return ds

    def transferred(self) -> list[Transferred]:
        """What arrived, by study."""
        return [Transferred(study, patient, classes) for (study, patient), classes in self.arrived.items()]

    def pend(self) -> None:
        """Tell how far it is."""
        self._answer(standard.PENDING)

    def end(self, status: int) -> None:
        """The last response."""
        self._answer(status)

    def finish(self) -> None:
        """The status that the counts make (PS3.4 Tables C.4-2 and C.4-3)."""
        if not self.failed and not self.warned:
            self.end(standard.SUCCESS)
        elif self.completed or self.warned:
            self.end(standard.SUB_OPERATIONS_WITH_FAILURES)
        else:
            self.end(standard.UNABLE_TO_PERFORM_SUB_OPERATIONS)

    def _answer(self, status: int) -> None:
        if not self.assoc.is_established:
            return
        answer = C_GET() if self.is_get else C_MOVE()
        answer.MessageIDBeingRespondedTo = self.message.MessageID
        answer.AffectedSOPClassUID = self.message.AffectedSOPClassUID
        answer.Status = status
        if status in (standard.PENDING, standard.CANCEL):
            answer.NumberOfRemainingSuboperations = self.remaining
        answer.NumberOfCompletedSuboperations = self.completed
        answer.NumberOfWarningSuboperations = self.warned
        answer.NumberOfFailedSuboperations = len(self.failed)
        if status in _NAMING_FAILED:
            names = Dataset()
            names.FailedSOPInstanceUIDList = self.failed[:_NAMED_AT_MOST]
            syntax = self.context.transfer_syntax[0]
            answer.Identifier = BytesIO(
                encode(names, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated) or b""
            )
        self.assoc.dimse.send_msg(answer, self.context.context_id)


def send_all(
    request: Request,
    found: Sequence[Instance],
    data_dir: Path,
    to: ApplicationEntity | None,
    ae_title: str,
) -> None:
    """Store every instance at the destination of a C-MOVE, or over the association of a C-GET, and answer.

    A cancellation or the end of the association stops it between two instances.
    """
    request.remaining = len(found)
    if not found:
        request.end(standard.SUCCESS)
        return
    if to is None:
        _send_over(request, request.assoc, found, data_dir)
        return
    try:
        assoc = _associate(to, found, ae_title)
    except Retry as fault:
        get_log().warning("instances not moved", reason=fault.reason)
        request.failed, request.remaining = [one.sop_instance_uid for one in found], 0
        request.end(standard.UNABLE_TO_PERFORM_SUB_OPERATIONS)
        return
    try:
        _send_over(request, assoc, found, data_dir)
    finally:
        if assoc.is_established:
            assoc.release()


def _send_over(request: Request, assoc: Association, found: Sequence[Instance], data_dir: Path) -> None:
    for one in found:
        if request.is_abandoned:
            return
        if request.is_cancelled:
            request.end(standard.CANCEL)
            return
        started = time.monotonic()
        status = _store(request, assoc, one, data_dir)
        time.sleep(min(time.monotonic() - started, _LONGEST_PAUSE_SECONDS))  # receiving goes first
        request.remaining -= 1
        if status == standard.SUCCESS or (status is not None and status >> 12 == 0xB):
            request.completed += status == standard.SUCCESS
            request.warned += status != standard.SUCCESS
            request.arrived.setdefault((one.study_instance_uid, one.patient_id), Counter())[one.sop_class_uid] += 1
        else:
            request.failed.append(one.sop_instance_uid)
        if request.remaining:
            request.pend()
    request.finish()


def _store(request: Request, assoc: Association, one: Instance, data_dir: Path) -> int | None:
    """C-STORE of one file; the peer's status, None where it could not be sent."""
    path = data_dir / one.path if one.path is not None else None
    if path is None or not path.is_file():
        return None
    originator = {} if request.is_get else {
        "originator_aet": str(request.assoc.requestor.ae_title), "originator_id": request.message.MessageID,
    }  # fmt: skip
    number = (request.message.MessageID + request.completed + request.warned + len(request.failed)) % 65535 + 1
    send = partial(assoc.send_c_store, msg_id=number, **originator)
    try:
        try:
            answer = send(path)
        except ValueError:  # no presentation context with the very transfer syntax
            if one.transfer_syntax_uid not in _CONVERTIBLE:
                return None
            answer = send(dcmread(path))
    except Exception as error:  # a sub-operation's boundary: the others go on
        patches.resume_reactor(assoc)
        get_log().warning("instance not sent", **fault_fields(error))
        return None
    return int(answer.Status) if "Status" in answer else None


def _associate(to: ApplicationEntity, found: Sequence[Instance], ae_title: str) -> Association:
    """With the destination of a C-MOVE, for the classes and transfer syntaxes of these instances. Raises Retry."""
    pairs = dict.fromkeys((one.sop_class_uid, one.transfer_syntax_uid) for one in found)
    for sop_class, syntax in list(pairs):
        if syntax in _CONVERTIBLE:
            pairs |= dict.fromkeys((sop_class, other) for other in (ExplicitVRLittleEndian, ImplicitVRLittleEndian))
    contexts = [build_context(*pair) for pair in list(pairs)[:_CONTEXTS_AT_MOST]]
    return associate(to, ae_title, contexts, service="storage of these instances", timeout_seconds=_TIMEOUT_SECONDS)


patches.send_files_undecoded()
