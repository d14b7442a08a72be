"""The instances of a STOW-RS request, stored as those of C-STORE are: durably, before the response names them.

While it arrives an instance takes little memory: what exceeds a few MiB, or the memory of all, goes to its file. So
many requests may arrive at once, however slowly; few threads store, so that pages are answered meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from starlette.concurrency import run_in_threadpool

from worker.audit import events
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationEnd
from worker.dicom import standard
from worker.dicom.header import read_meta
from worker.errors import RefusedInstance
from worker.storage.acceptance import (
    StoreRequest,
    beginning_of,
    parse_header_of_request,
    refusing_unreadable,
    require_storable,
    too_large,
)
from worker.storage.arriving import ArrivingInstance
from worker.storage.pending import status_of
from worker.storage.refusals import RefusedRequest
from worker.storage.store import InstanceStore, Transfer
from worker.web.dicomweb.negotiation import DICOM
from worker.web.dicomweb.stow_response import StowResult

CALLING = "STOW-RS"  # in place of an AE title, in the association's row
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_THREADS = 4


class StowStorage(InstanceStore):
    """What the requests of this process share. A request is an association to all others: series wait for its end."""

    def __init__(
        self, settings: Settings, database: Database, clock: Callable[[], datetime], record: events.RecordEvent
    ) -> None:
        super().__init__(settings, database, clock, record)
        self.turns = asyncio.Semaphore(_THREADS)

    def begin(self, name: str, address: str) -> StowRequest:
        """Start a request of a caller."""
        return StowRequest(self, name, address)


class StowRequest:
    """A request: `new_part` for each instance, then `end`."""

    def __init__(self, storage: StowStorage, name: str, address: str) -> None:
        self._storage = storage
        self._name = name
        self._transfer = Transfer(storage, CALLING, address)

    def new_part(self) -> StowPart:
        """The next instance."""
        return StowPart(self, self._storage)

    def store(
        self, request: StoreRequest, study_instance_uid: str | None = None, media_type: str = DICOM
    ) -> StowResult:
        """Store the content of a part, a DICOM file; it is durable when the status is no failure.

        The identifiers of the `request` are filled in. `study_instance_uid`: the only study that is allowed, where the
        address names a study.
        """
        uids = dict.fromkeys(_UIDS, "")
        try:
            _read(request, media_type, uids)
            if study_instance_uid not in (None, uids["StudyInstanceUID"]):
                raise RefusedInstance(standard.DATASET_MISMATCH, "other-study", "the address names another study")
            outcome = self._transfer.keep(request)
        except Exception as fault:  # a handler's boundary: record and answer
            address = self._transfer.address
            refused = RefusedRequest(beginning_of(request), uids["SOPInstanceUID"], self._transfer.row, address)
            return _result(uids, self._storage.refusals.refuse(fault, refused if media_type == DICOM else None))
        return _result(uids, status_of(outcome))

    def end(self, end: AssociationEnd) -> None:
        """Record that nothing more will arrive: series may settle. A request that was read to its end is released."""
        self._transfer.end(end, sender=self._name)


class StowPart:
    """An instance of a request: `append` what arrives of it, then `store`; `close` in any case."""

    def __init__(self, request: StowRequest, storage: StowStorage) -> None:
        self._request, self._turns = request, storage.turns
        self._arriving = ArrivingInstance(storage.spool, storage.maximum_bytes, StoreRequest("", "", "", b""), b"")

    async def append(self, piece: bytes) -> None:
        """Take a piece of its file; what cannot be kept is known to `store`."""
        async with self._turns:
            await run_in_threadpool(self._arriving.append, piece)

    async def store(self, study_instance_uid: str | None, media_type: str) -> StowResult:
        """As `StowRequest.store`."""
        async with self._turns:
            return await run_in_threadpool(
                self._request.store, self._arriving.complete(), study_instance_uid, media_type
            )

    def close(self) -> None:
        """Give back its memory, and its file unless it is stored."""
        self._arriving.close()


def _read(request: StoreRequest, media_type: str, uids: dict[str, str]) -> None:
    """Fill in what the command of a C-STORE brings, and `uids`. Raises RefusedInstance."""
    if media_type != DICOM:
        raise RefusedInstance(standard.CANNOT_UNDERSTAND, "not-dicom", "the part is not application/dicom")
    if request.fault is not None:
        raise request.fault
    if request.is_too_large:
        raise too_large()
    beginning = beginning_of(request)
    if beginning[128:132] != b"DICM":
        raise RefusedInstance(standard.CANNOT_UNDERSTAND, "not-dicom", "the part is not a DICOM file")
    with refusing_unreadable():
        meta = read_meta(beginning)
        request.transfer_syntax_uid = str(meta.get("TransferSyntaxUID", ""))
    ds = parse_header_of_request(request, _UIDS).dataset
    with refusing_unreadable():
        values = {keyword: str(ds.get(keyword, "")) for keyword in _UIDS}
    uids |= {keyword: uid if standard.is_uid(uid) else "" for keyword, uid in values.items()}
    if not request.transfer_syntax_uid:
        raise RefusedInstance(standard.CANNOT_UNDERSTAND, "unreadable-dataset", "the file names no transfer syntax")
    if not uids["SOPClassUID"]:  # a file that was cut short; not a class that is not received
        raise RefusedInstance(standard.DATASET_MISMATCH, "invalid-uid", "the dataset has no SOP Class UID")
    request.affected_sop_class_uid = uids["SOPClassUID"]
    require_storable(request)
    if request.transfer_syntax_uid not in standard.TRANSFER_SYNTAXES:
        raise RefusedInstance(
            standard.TRANSFER_SYNTAX_NOT_SUPPORTED, "transfer-syntax", "this transfer syntax is not received"
        )
    request.affected_sop_class_uid = str(meta.get("MediaStorageSOPClassUID", uids["SOPClassUID"]))
    request.affected_sop_instance_uid = str(meta.get("MediaStorageSOPInstanceUID", uids["SOPInstanceUID"]))


def _result(uids: dict[str, str], status: int) -> StowResult:
    sop_class, sop_instance, study, series = (uids[keyword] for keyword in _UIDS)
    return StowResult(sop_class, sop_instance, study, series, status)
