"""Ask a sender how many images a series has: C-FIND, Study Root, Series level (PS3.4 C.6.2).

Never within a C-STORE: a tick of its own for each peer, so that nobody waits for a peer that is slow or away. Without
an answer a series settles by silence, as it does for peers that are not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from worker.config.settings import PeerSection, Settings
from worker.db import settling
from worker.db.engine import Database
from worker.errors import Retry
from worker.logs import get_log
from worker.network.associate import associate

LULL = timedelta(seconds=1)  # a sender that pauses so long may have sent all
AGAIN = timedelta(seconds=5)
_ANSWERS_AT_MOST = 16  # to a question that one series answers
_PENDING = (0xFF00, 0xFF01)  # PS3.4 C.4.1.1.4


def count_series(database: Database, settings: Settings, peer: PeerSection, clock: Callable[[], datetime]) -> int:
    """Ask the peer for the number of images of every open series of its own that it may be asked for; how many."""
    lull = min(LULL, timedelta(seconds=settings.receive.quiet_seconds / 2))
    with database.read() as session:
        due = settling.series_to_count(session, peer.ae_title, clock(), lull, AGAIN)
    if not due:
        return 0
    try:
        assoc = associate_for_count(peer, settings.worker.ae_title)
    except Retry as fault:
        get_log().warning("number of images not asked for", peer=peer.ae_title, reason=fault.reason)
        assoc = None
    try:
        for series in due:
            asked_at = clock()
            known = _ask(assoc, series) if assoc is not None else None
            with database.write() as session:
                settling.record_count(session, series.id, asked_at, known)
            get_log().info("number of images asked for", series_row=series.id, peer=peer.ae_title, images=known)
    finally:
        if assoc is not None and assoc.is_established:
            assoc.release()
    return len(due)


def associate_for_count(peer: PeerSection, ae_title: str) -> Association:
    """An association to query over. Raises Retry when the peer is unreachable or supports no queries."""
    contexts = [build_context(StudyRootQueryRetrieveInformationModelFind)]
    return associate(peer, ae_title, contexts, service="Study Root queries (C-FIND)")


def _ask(assoc: Association, series: settling.SeriesToCount) -> int | None:
    """Number of Series Related Instances (0020,1209); None when the peer does not say."""
    question = Dataset()
    question.QueryRetrieveLevel = "SERIES"
    question.StudyInstanceUID = series.study_instance_uid
    question.SeriesInstanceUID = series.series_instance_uid
    question.NumberOfSeriesRelatedInstances = None
    if not assoc.is_established:
        return None
    try:
        answers = assoc.send_c_find(question, StudyRootQueryRetrieveInformationModelFind)
        for number, (status, found) in enumerate(answers):
            if number >= _ANSWERS_AT_MOST:
                assoc.abort()
                return None
            if status.get("Status") not in _PENDING or found is None:
                continue
            if str(found.get("SeriesInstanceUID", "")) == series.series_instance_uid:
                images = int(found.get("NumberOfSeriesRelatedInstances"))
                for _ in answers:  # the peer's last word belongs to this question, so it is read
                    pass
                return images if images > 0 else None
    except (RuntimeError, ValueError, TypeError):  # the association ended; or the peer leaves the number out
        return None
    return None
