"""The C-STORE sub-operations of a C-GET (PS3.4 C.4.3): the peer stores over the association that we requested.

pynetdicom would collect each dataset in memory, whatever its size. Here it goes where those that a peer pushes go,
within the same limits, and a success is answered once the instance is durable.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

from pynetdicom import build_context, build_role
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext

from worker.dicom import standard
from worker.network import pynetdicom_patches as patches
from worker.network.limited_messages import LARGEST_OTHER_DATASET, LimitedMessages
from worker.network.part10 import file_beginning
from worker.storage.acceptance import StoreRequest
from worker.storage.arriving import ArrivingInstance, invalid_instance
from worker.storage.store import Transfer

# A context for each compressed transfer syntax, so that a peer may send every file as it is stored; a single context
# for all others, between which a peer converts without decoding pixels. A request has room for 128 (PS3.8 9.3.2.2).
_UNCOMPRESSED, _COMPRESSED = list(standard.TRANSFER_SYNTAXES)[:4], list(standard.TRANSFER_SYNTAXES)[4:]


def storage_contexts() -> list[PresentationContext]:
    """The presentation contexts of what we receive."""
    contexts = [build_context(sop_class, _UNCOMPRESSED) for sop_class in standard.RECEIVED_SOP_CLASSES]
    images = standard.STORAGE_SOP_CLASSES
    return contexts + [build_context(sop_class, syntax) for sop_class in images for syntax in _COMPRESSED]


def storage_roles() -> list[Any]:
    """The selections of the SCP role for them (PS3.7 D.3.3.4)."""
    return [build_role(sop_class, scp_role=True) for sop_class in standard.RECEIVED_SOP_CLASSES]


class SubOperations:
    """Answers the C-STORE requests that come over an association; `stored` and `refused` count them."""

    def __init__(self, is_due: Callable[[], bool]) -> None:
        """`is_due`: whether the transfer has lasted too long; it is then aborted, between two messages."""
        self._is_due = is_due
        self._transfer: Transfer | None = None
        self._open: set[ArrivingInstance] = set()
        self._lock = threading.Lock()
        self.stored = self.refused = 0

    def attach(self, assoc: Association, transfer: Transfer) -> None:
        """Begin, over an established association over which nothing has been sent."""
        self._transfer = transfer
        patches.replace_message_provider(assoc, _Messages(assoc, self.begin, self._is_due))

    def begin(self, assoc: Association, message: C_STORE_RQ) -> ArrivingInstance | None:
        """Collect an instance whose command has arrived; None where its context was not accepted for it."""
        context = patches.accepted_context(assoc, message.context_id)
        command, transfer = message.command_set, self._transfer
        sop_class = str(command.get("AffectedSOPClassUID", ""))
        if transfer is None or context is None or not context.as_scp or sop_class != context.abstract_syntax:
            return None
        sop_instance = str(command.get("AffectedSOPInstanceUID", ""))
        syntax = str(context.transfer_syntax[0])
        request = StoreRequest(sop_class, sop_instance, syntax, b"")
        if not standard.is_uid(sop_instance):
            request.fault = invalid_instance()
        beginning = file_beginning(sop_class, sop_instance, syntax) if request.fault is None else b""
        store = transfer.store
        arriving = ArrivingInstance(store.spool, store.maximum_bytes, request, beginning)
        with self._lock:
            self._open.add(arriving)
        return arriving

    def on_store(self, event: Event) -> int:
        """Store an instance that has arrived; the status to answer."""
        dataset = event.request.DataSet
        arriving = dataset.arriving if isinstance(dataset, _Dataset) else None
        if arriving is None or self._transfer is None:
            self.refused += 1
            return standard.MISSING_ATTRIBUTE
        try:
            status = self._transfer.answer(arriving.complete())
        finally:
            self._close(arriving)
        is_stored = standard.is_stored(status)
        self.stored += is_stored
        self.refused += not is_stored
        return status

    def close(self) -> None:
        """Give back what instances hold that had not arrived when the association ended."""
        with self._lock:
            left = list(self._open)
        for arriving in left:
            self._close(arriving)

    def _close(self, arriving: ArrivingInstance) -> None:
        arriving.close()
        with self._lock:
            self._open.discard(arriving)


class _Messages(LimitedMessages):
    """Collects the messages of the association; instances as `begin` says."""

    # While an instance is being stored, the peer may send pending responses of the C-GET.
    waiting_messages = 64

    def __init__(
        self,
        assoc: Association,
        begin: Callable[[Association, C_STORE_RQ], ArrivingInstance | None],
        is_due: Callable[[], bool],
    ) -> None:
        super().__init__(assoc, sys.maxsize)  # `_Dataset` limits
        self._begin, self._is_due = begin, is_due

    def new_message(self) -> DIMSEMessage:
        message = DIMSEMessage()
        message.data_set = _Dataset(self.assoc, message, self._begin)
        return message

    def get_msg(self, block: bool = False) -> tuple[Any, Any]:
        """The next message, requests included; none once the transfer has lasted too long: the caller then aborts."""
        if self._is_due():
            return None, None
        return DIMSEServiceProvider.get_msg(self, block)  # type: ignore[no-any-return]


class _Dataset(BytesIO):
    """The dataset of a message that arrives: an instance is collected in `arriving`, what else there is in here."""

    def __init__(
        self,
        assoc: Association,
        message: DIMSEMessage,
        begin: Callable[[Association, C_STORE_RQ], ArrivingInstance | None],
    ) -> None:
        super().__init__()
        self._assoc, self._message, self._begin = assoc, message, begin
        self._has_begun = False
        self.arriving: ArrivingInstance | None = None

    def write(self, part: Any) -> int:
        if not isinstance(self._message, C_STORE_RQ):
            return super().write(part) if self.tell() + len(part) <= LARGEST_OTHER_DATASET else len(part)
        if not self._has_begun:
            self._has_begun, self.arriving = True, self._begin(self._assoc, self._message)
        if self.arriving is not None:
            self.arriving.append(part)
        return len(part)
