"""Query a sender for the number of images of a series: C-FIND, Study Root, Series level (PS3.4 C.6.2).

Never within a C-STORE: each peer has a tick of its own, so that nobody waits for a peer that is slow or unreachable.
Without an answer a series settles by silence, as it does for peers that are not queried.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from pydicom import Dataset
from pynetdicom.association import Association

from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.db import settling
from worker.db.engine import Database
from worker.logs import get_log
from worker.network.count_queries import counted, counting, find_matches

LULL = timedelta(seconds=1)  # a sender that pauses so long may have sent everything
RECOUNT = timedelta(seconds=5)
_MAXIMUM_MATCHES = 16  # of a query that a single series matches


def count_series(database: Database, settings: Settings, peer: PeerSection, clock: Callable[[], datetime]) -> int:
    """Query the peer for the image count of every open series that it sent and that is due; the number of series."""
    lull = min(LULL, timedelta(seconds=settings.receive.quiet_seconds / 2))
    with database.read() as session:
        due = settling.series_to_count(session, peer.ae_title, clock(), lull, RECOUNT)
    if not due:
        return 0
    with counting(peer, settings.worker.ae_title, "image count not queried") as assoc:
        for series in due:
            queried_at = clock()
            images = _query(assoc, series, peer.timeout_seconds) if assoc is not None else None
            with database.write() as session:
                settling.record_count(session, series.id, queried_at, images)
            get_log().info("image count queried", series_row=series.id, peer=peer.ae_title, images=images)
    return len(due)


def _query(assoc: Association, series: settling.SeriesToCount, seconds: float) -> int | None:
    """Number of Series Related Instances (0020,1209); None when the peer does not provide it."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = series.study_instance_uid
    identifier.SeriesInstanceUID = series.series_instance_uid
    identifier.NumberOfSeriesRelatedInstances = None
    for match in find_matches(assoc, identifier, _MAXIMUM_MATCHES, seconds) or ():
        if str(match.get("SeriesInstanceUID", "")) == series.series_instance_uid:
            return counted(match, "NumberOfSeriesRelatedInstances") or None
    return None
