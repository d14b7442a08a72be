"""Have a PACS send us a study, by C-MOVE or C-GET (PS3.4 C.4.2, C.4.3).

By C-MOVE it opens an association to our Storage SCP, like any sender, and must know our AE title, host and port. By
C-GET it sends over the association that we request: see docs/decisions/0017.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from worker.audit.events import RecordEvent
from worker.config.sections import PeerSection, Retrieval
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationEnd
from worker.dicom import standard
from worker.errors import Retry
from worker.fetch.sub_operations import SubOperations, storage_contexts, storage_roles
from worker.network import pynetdicom_patches as patches
from worker.network.associate import associate
from worker.storage.store import InstanceStore, Transfer
from worker.wording import counted

_LONGEST_SECONDS = 4 * 3600.0
_SILENT_SECONDS = 600.0  # a PACS that brings a study from a tape says nothing meanwhile
_PENDING = (standard.PENDING, standard.PENDING_WITH_WARNING)
_ENDED = (standard.SUCCESS, standard.SUB_OPERATIONS_WITH_FAILURES)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the PACS reports of a study: images that it sent us, that failed, and those to come.

    By C-GET `completed` and `failed` are at least what we stored and refused ourselves.
    """

    completed: int
    failed: int
    remaining: int


Progress = Callable[[Fetched], None]


def _ignored(_fetched: Fetched) -> None:
    """The progress of a study that nobody watches."""


@contextmanager
def storing(
    by: Retrieval, settings: Settings, database: Database, clock: Callable[[], datetime], record: RecordEvent
) -> Iterator[InstanceStore | None]:
    """Where the images of a C-GET are stored; None for C-MOVE, which brings them to the receiver."""
    if by == "move":
        yield None
        return
    store = InstanceStore(settings, database, clock, record)
    try:
        yield store
    finally:
        store.close()


def fetch_study(
    peer: PeerSection,
    ae_title: str,
    study_instance_uid: str,
    store: InstanceStore | None,
    progress: Progress = _ignored,
) -> Fetched:
    """Fetch a study by C-GET into `store`, without it by C-MOVE; `progress` gets the counts of each response.

    Raises Retry with what to do.
    """
    if store is None:
        return _move(peer, ae_title, study_instance_uid, progress)
    return _get(peer, ae_title, study_instance_uid, store, progress)


def _move(peer: PeerSection, ae_title: str, study_instance_uid: str, progress: Progress) -> Fetched:
    """Have the PACS send a study to our Storage SCP."""
    model = StudyRootQueryRetrieveInformationModelMove
    assoc = associate(peer, ae_title, [build_context(model)], service="retrieval by C-MOVE")
    _wait_longer(assoc)
    deadline = time.monotonic() + _LONGEST_SECONDS
    fetched, code = _responses(
        assoc, lambda: assoc.send_c_move(_identifier(study_instance_uid), ae_title, model), deadline, progress
    )
    if code in _ENDED:
        return fetched
    raise Retry("fetch-failed", _explain_move(code, peer, ae_title, fetched))


def _get(
    peer: PeerSection, ae_title: str, study_instance_uid: str, store: InstanceStore, progress: Progress
) -> Fetched:
    """Have the PACS send a study over our association, and store it: what is counted as completed is durable.

    What came before a Retry is stored, and repeated when the study is fetched again.
    """
    model = StudyRootQueryRetrieveInformationModelGet
    deadline = time.monotonic() + _LONGEST_SECONDS
    operations = SubOperations(lambda: time.monotonic() > deadline)
    assoc = associate(
        peer,
        ae_title,
        [build_context(model), *storage_contexts()],
        service="retrieval by C-GET",
        roles=storage_roles(),
        handlers=[(evt.EVT_C_STORE, operations.on_store)],
    )
    _wait_longer(assoc)
    _require_get(assoc, peer, model)
    transfer = Transfer(store, peer.ae_title, _address(assoc))
    operations.attach(assoc, transfer)
    end = AssociationEnd.ABORTED
    try:
        fetched, code = _responses(
            assoc, lambda: assoc.send_c_get(_identifier(study_instance_uid), model), deadline, progress
        )
        if code in _ENDED:
            end = AssociationEnd.RELEASED
        elif code is None:
            code, end = (standard.PENDING if time.monotonic() > deadline else None), AssociationEnd.LOST
    finally:
        operations.close()
        transfer.end(end)
    completed, failed = max(fetched.completed, operations.stored), max(fetched.failed, operations.refused)
    if code in _ENDED:
        return Fetched(operations.stored, max(failed, completed - operations.stored), fetched.remaining)
    raise Retry("fetch-failed", _explain_get(code, peer, ae_title, operations.stored, failed))


def _wait_longer(assoc: Association) -> None:
    """Have an association wait for a slow archive."""
    assoc.dimse_timeout = assoc.network_timeout = _SILENT_SECONDS


def _identifier(study_instance_uid: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_instance_uid
    return identifier


def _responses(
    assoc: Association, request: Callable[[], Iterable[Any]], deadline: float, progress: Progress
) -> tuple[Fetched, int | None]:
    """Send the request and take its responses; the last counts and status, None where none came.

    The association is released, or aborted where the retrieval is not at its end.
    """
    fetched, code = Fetched(0, 0, 0), None
    try:
        for status, _ in request():
            code = status.get("Status")
            if code is None:
                break
            fetched = _counts(status, fetched)
            progress(fetched)
            if time.monotonic() > deadline:
                break
    except (RuntimeError, ValueError, TypeError, AttributeError):  # the association ended, or an answer is no dataset
        code = None
    finally:
        if assoc.is_established:
            if code is None or code in _PENDING:
                assoc.abort()
            else:
                assoc.release()
    return fetched, code


def _counts(status: Dataset, before: Fetched) -> Fetched:
    """The counts of a response (PS3.7 9.1.4.1); those that it does not have stay."""

    def number(keyword: str, otherwise: int) -> int:
        value = status.get(keyword)
        return value if isinstance(value, int) else otherwise

    completed = number("NumberOfCompletedSuboperations", before.completed)
    warned = number("NumberOfWarningSuboperations", 0)
    failed = number("NumberOfFailedSuboperations", before.failed)
    return Fetched(completed + warned, failed, number("NumberOfRemainingSuboperations", 0))


def _require_get(assoc: Association, peer: PeerSection, model: str) -> None:
    """Raise Retry, and end the association, where the peer takes no C-GET or will not store over it."""
    contexts = assoc.accepted_contexts
    if not any(context.abstract_syntax == model for context in contexts):
        assoc.release()
        raise Retry("sop-class-refused", f"{peer.ae_title} does not support retrieval by C-GET; try C-MOVE")
    if not any(context.as_scp for context in contexts):
        assoc.release()
        detail = f"{peer.ae_title} sends nothing over an association that we request (C-GET); try C-MOVE"
        raise Retry("role-refused", detail)


def _address(assoc: Association) -> str:
    """The address of the peer, as of a peer that calls us; "" where the connection has just ended."""
    try:
        return str(patches.connection(assoc).getpeername()[0])
    except (OSError, AttributeError):
        return ""


def _still_sending(peer: PeerSection) -> str:
    return f"{peer.ae_title} was still sending when our limit of {_LONGEST_SECONDS / 3600:g} h passed"


def _explain_move(code: int | None, peer: PeerSection, ae_title: str, fetched: Fetched) -> str:
    name = peer.ae_title
    so_far = f"{counted(fetched.completed, 'image')} sent, {fetched.failed} failed; fetching again completes the study"
    if code is None:
        return f"{name} ended the association or is silent: does it know '{ae_title}', and may we retrieve from it?"
    if code == standard.MOVE_DESTINATION_UNKNOWN:
        return f"{name} does not know '{ae_title}': register this AE title there, with our host and [receive] port"
    if code == standard.UNABLE_TO_PERFORM_SUB_OPERATIONS:
        return f"{name} could not send any image to us: is our host and [receive] port right there, and may it send?"
    if code in _PENDING:
        return f"{_still_sending(peer)}: {so_far}"
    if code == standard.CANCEL:
        return f"{name} cancelled the retrieval: {so_far}"
    return f"{name} answered status 0x{code:04X}"


def _explain_get(code: int | None, peer: PeerSection, ae_title: str, stored: int, failed: int) -> str:
    name = peer.ae_title
    so_far = f"{counted(stored, 'image')} stored, {failed} failed; fetching again completes the study"
    if code is None and not stored:
        return f"{name} ended the association or is silent: may '{ae_title}' retrieve from it?"
    if code is None:
        return f"{name} ended the association or is silent: {so_far}"
    if code in _PENDING:
        return f"{_still_sending(peer)}: {so_far}"
    if code == standard.CANCEL:
        return f"{name} cancelled the retrieval: {so_far}"
    if code == standard.UNABLE_TO_PERFORM_SUB_OPERATIONS:
        return f"{name} could not send the images, perhaps in no transfer syntax that we receive: {so_far}"
    return f"{name} answered status 0x{code:04X}: {so_far}"
