"""A stand-in PACS in this process, for what Orthanc will not do on request: refuse, abort, hang, be down."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from enum import Enum
from io import BytesIO
from typing import Any, Self

from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification

from tests.testbed.dcmtk import free_port

# What the worker sends back.
REPORTS = (Comprehensive3DSRStorage, ComprehensiveSRStorage)
PICTURES = (SecondaryCaptureImageStorage,)


class Behaviour(Enum):
    """What it does with the next C-STORE; `Pacs.stop` and `start` make it down and up."""

    ACCEPT = "accept"
    REFUSE = "refuse"  # answers `Pacs.status`
    ABORT = "abort"  # A-ABORT instead of an answer
    SLOW = "slow"  # answers after `Pacs.delay_seconds`
    RESET = "reset"  # cuts the connection (TCP RST) instead of an answer


class Pacs:
    """A Storage SCP, on 127.0.0.1 unless told otherwise, that keeps what it accepts in memory.

    `behaviour`, `status` and `delay_seconds` may be changed while it runs. `stored` maps SOP Instance UID to the
    file's bytes; `receipts` counts every accepted C-STORE of it, so a repeated send shows.
    """

    name = "stand-in PACS"

    def __init__(self, ae_title: str = "PACS", port: int | None = None, host: str = "127.0.0.1") -> None:
        self.ae_title = ae_title
        self.host = host
        self.port = port or free_port()
        self.behaviour = Behaviour.ACCEPT
        self.status = 0xA700
        self.delay_seconds = 2.0
        self.accept_sop_classes: set[str] | None = None  # None: every storage class
        self.stored: dict[str, bytes] = {}
        self.receipts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server: Any = None

    def start(self) -> Self:
        ae = AE(ae_title=self.ae_title)
        ae.maximum_pdu_size = 1 << 20
        ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            if self.accept_sop_classes is None or context.abstract_syntax in self.accept_sop_classes:
                ae.add_supported_context(context.abstract_syntax)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, lambda event: 0x0000)]
        self._server = ae.start_server((self.host, self.port), block=False, evt_handlers=handlers)
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def files(self, sop_classes: tuple[str, ...], study_instance_uid: str | None = None) -> dict[str, bytes]:
        """SOP Instance UID → DICOM file, of these classes and this study, in the order of arrival."""
        with self._lock:
            stored = dict(self.stored)
        found = {}
        for uid, content in stored.items():
            ds = dcmread(BytesIO(content), stop_before_pixels=True)
            if ds.SOPClassUID in sop_classes and study_instance_uid in (None, ds.StudyInstanceUID):
                found[uid] = content
        return found

    def _store(self, event: Any) -> int:
        if self.behaviour is Behaviour.ABORT:
            event.assoc.abort()
            return 0xC000
        if self.behaviour is Behaviour.RESET:
            # SO_LINGER of 0 seconds: the close sends a reset
            peer = event.assoc.dul.socket.socket
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            return 0xC000
        if self.behaviour is Behaviour.REFUSE:
            return self.status
        if self.behaviour is Behaviour.SLOW:
            time.sleep(self.delay_seconds)
        uid = str(event.request.AffectedSOPInstanceUID)
        content = event.encoded_dataset()
        with self._lock:
            self.stored[uid] = content
            self.receipts[uid] += 1
        return 0x0000
