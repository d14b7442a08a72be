"""An instance that arrives by C-STORE or STOW-RS: what is kept of it, and what it takes until it has been answered."""

from __future__ import annotations

from worker.dicom import standard
from worker.errors import RefusedInstance
from worker.storage.acceptance import IDENTIFYING_BYTES, StoreRequest
from worker.storage.spool import Spool, SpooledFile, refusal_of


class ArrivingInstance:
    """Collects the dataset of a request; after a fault the rest is read and dropped. `close` when it is answered."""

    def __init__(self, spool: Spool, maximum_bytes: int, request: StoreRequest, beginning: bytes) -> None:
        """`beginning`: preamble and file meta information; `maximum_bytes` of the dataset are kept."""
        self.request = request
        self._spool = spool
        self._maximum_bytes = maximum_bytes
        self._dataset_bytes = self._in_memory = 0
        self._content: bytearray | SpooledFile = bytearray(beginning)

    def append(self, value: bytes | memoryview) -> None:
        """Take a fragment of the dataset."""
        self._dataset_bytes += len(value)
        if self.request.fault is not None or self.request.is_too_large:
            return
        if self._dataset_bytes > self._maximum_bytes:
            self.request.is_too_large = True
            self._drop_all_but_beginning()
            return
        try:
            content = self._spool.append(self._content, value)
        except OSError as error:
            self.request.fault = refusal_of(error)
            self._drop_all_but_beginning()
            return
        if isinstance(content, SpooledFile):
            self._release()
        else:
            self._in_memory += len(value)
        self._content = content

    def complete(self) -> StoreRequest:
        """The request with its content."""
        self.request.encoded = self._content
        return self.request

    def close(self) -> None:
        """Give back memory and file: the instance is stored, refused, or its association is over."""
        self._drop()
        self.request.encoded = b""

    def _drop_all_but_beginning(self) -> None:
        """Keep what names the series that now lacks the instance."""
        content = self._content
        try:
            if isinstance(content, SpooledFile):
                beginning = content.beginning(IDENTIFYING_BYTES)
            else:
                beginning = bytes(content[:IDENTIFYING_BYTES])
        except OSError:  # the disk again
            beginning = b""
        self._drop()
        self._content = bytearray(beginning)

    def _drop(self) -> None:
        self._release()
        if isinstance(self._content, SpooledFile):
            self._content.discard()
        self._content = bytearray()

    def _release(self) -> None:
        self._spool.release(self._in_memory)
        self._in_memory = 0


def invalid_instance() -> RefusedInstance:
    """What a command is refused with whose Affected SOP Instance UID is none (PS3.7 C.5.7)."""
    return RefusedInstance(
        standard.INVALID_INSTANCE, "invalid-instance", "the command's Affected SOP Instance UID is not a UID"
    )
