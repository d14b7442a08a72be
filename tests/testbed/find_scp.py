"""A sender that may be queried, whose responses to C-FIND a test chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind

from tests.testbed.dcmtk import free_port
from worker.config.sections import PeerSection

PENDING, FAILURE = 0xFF00, 0xA700
Responses = Callable[[Dataset], Iterator[tuple[int, Dataset | None]]]


@contextmanager
def sender(
    responses: Responses, seen: list[Dataset] | None = None, timeout_seconds: float = 10
) -> Iterator[PeerSection]:
    """A sender whose C-FIND yields these responses to an identifier; success follows by itself."""

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if seen is not None:
            seen.append(event.identifier)
        yield from responses(event.identifier)

    ae = AE(ae_title="SENDER")
    ae.add_supported_context(StudyRootFind)
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, on_find)])
    try:
        yield PeerSection(ae_title="SENDER", host="127.0.0.1", port=port, query=True, timeout_seconds=timeout_seconds)
    finally:
        server.shutdown()
