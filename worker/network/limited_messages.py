"""Collects the messages of an association, and holds no more of a dataset than is allowed."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA

from worker.logs import fault_fields, get_log
from worker.network import pynetdicom_patches as patches

LARGEST_OTHER_DATASET = 2 << 20  # bytes, of queries and storage commitment; instances are collected elsewhere
_MAXIMUM_COMMAND_BYTES = 1 << 16
_FREE_PARTS, _BYTES_A_PART = 256, 64  # of a message: pynetdicom takes a fifth of a millisecond for each part


class TooLarge(BytesIO):
    """Stands for a dataset above `maximum_dataset_bytes`; empty."""


class LimitedMessages(DIMSEServiceProvider):  # type: ignore[misc]  # pynetdicom has no types for us
    """Collects messages, and holds no more of a dataset than `maximum_bytes`: what exceeds it is read and dropped."""

    # A conforming peer has 1, for no asynchronous operations window is negotiated (PS3.7 D.3.3.3).
    waiting_messages = 2

    def __init__(self, assoc: Association, maximum_bytes: int) -> None:
        super().__init__(assoc)
        self._maximum_bytes = maximum_bytes
        self._command_bytes = self._dataset_bytes = self._parts = 0
        self._crossed: tuple[Any, Any] | None = None

    def get_msg(self, block: bool = False) -> tuple[Any, Any]:
        """The next message; where an answer is waited for, a request that crossed ours is left to the reactor.

        pynetdicom would abort: a peer may send its next request before it reads our storage commitment report.
        """
        if not block and self._crossed is not None:
            crossed, self._crossed = self._crossed, None
            return crossed
        found: tuple[Any, Any] = super().get_msg(block)
        if block and self._crossed is None and getattr(found[1], "MessageID", None) is not None:
            self._crossed, found = found, super().get_msg(block)
        return found

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Collect a part of a message; runs in the thread that reads the connection."""
        try:
            if self._admit(primitive):
                super().receive_primitive(primitive)
                return
        except Exception as error:  # a thread's boundary: hostile bytes may raise anything in the decoder
            get_log().warning("message not decoded", **fault_fields(error))
        self.message = None
        self.dul.event_queue.put(patches.INVALID_PDU)

    def new_message(self) -> DIMSEMessage:
        """What collects the next message."""
        return DIMSEMessage()

    def _admit(self, primitive: P_DATA) -> bool:
        """False when the association must end; removes from the primitive what exceeds the limit of a dataset."""
        if self.msg_queue.qsize() + (self._crossed is not None) >= self.waiting_messages:
            return False
        message = self.message
        if message is None:
            message = self.message = self.new_message()
            self._command_bytes = self._dataset_bytes = self._parts = 0
        values = primitive.presentation_data_value_list
        # PS3.8 E.2: bit 0 of the first byte is set for a fragment of the command.
        self._command_bytes += sum(len(data) - 1 for _, data in values if data[0] & 1)
        self._dataset_bytes += sum(len(data) - 1 for _, data in values if not data[0] & 1)
        if self._dataset_bytes > self._maximum_bytes:
            if not isinstance(message.data_set, TooLarge):
                message.data_set = TooLarge()
            kept = [[context, data if data[0] & 1 else data[:1]] for context, data in values]
            primitive.presentation_data_value_list = kept
        self._parts += len(values)
        if self._parts > _FREE_PARTS + (self._command_bytes + self._dataset_bytes) // _BYTES_A_PART:
            return False
        return self._command_bytes <= _MAXIMUM_COMMAND_BYTES
