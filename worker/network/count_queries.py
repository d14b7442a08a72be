"""Query a sender for what it has: C-FIND, Study Root (PS3.4 C.6.2), over an association for that alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from worker.config.sections import PeerSection
from worker.errors import Retry
from worker.logs import get_log
from worker.network.associate import associate

_PENDING = (0xFF00, 0xFF01)  # PS3.4 C.4.1.1.4
_SUCCESS = 0x0000
_LARGEST_COUNT = 10_000_000


def associate_for_count(peer: PeerSection, ae_title: str) -> Association:
    """An association to query over. Raises Retry when the peer is unreachable or supports no queries."""
    contexts = [build_context(StudyRootQueryRetrieveInformationModelFind)]
    return associate(peer, ae_title, contexts, service="Study Root queries (C-FIND)")


@contextmanager
def counting(peer: PeerSection, ae_title: str, event: str) -> Iterator[Association | None]:
    """As `associate_for_count`, released at the end; None, and `event` in the log, where there is no association."""
    assoc = None
    try:
        assoc = associate_for_count(peer, ae_title)
    except Retry as fault:
        get_log().warning(event, peer=peer.ae_title, reason=fault.reason)
    try:
        yield assoc
    finally:
        if assoc is not None and assoc.is_established:
            assoc.release()


def find_matches(assoc: Association, identifier: Dataset, maximum: int, seconds: float) -> list[Dataset] | None:
    """The matches of a query; None without a usable answer.

    There is none where the association ended, the status is no success, there are more matches than `maximum`, or they
    take longer than `seconds` in all: then the association is aborted, as a peer may send matches for ever.
    """
    if not assoc.is_established:
        return None
    matches: list[Dataset] = []
    deadline = time.monotonic() + seconds
    try:
        for status, match in assoc.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind):
            if len(matches) >= maximum or time.monotonic() > deadline:
                assoc.abort()
                return None
            code = status.get("Status")
            if code not in _PENDING:
                return matches if code == _SUCCESS else None
            if match is not None:
                matches.append(match)
    except (RuntimeError, ValueError, TypeError):  # the association ended, or an answer is no dataset
        return None
    return None


def counted(match: Dataset, keyword: str) -> int | None:
    """A number of series or images in a match; None where it is absent, no number, or impossible."""
    try:
        number = int(match.get(keyword))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number <= _LARGEST_COUNT else None
