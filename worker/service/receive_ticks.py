"""The ticks of the receive role: settling, counting, dead associations, retention, scrub, counts of refusals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from apscheduler.schedulers.background import BackgroundScheduler

from worker.audit.events import RecordEvent, unrecorded
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.process import process_name
from worker.receive.settle import settle_series
from worker.service.schedule import Tick, start_ticks
from worker.storage.associations import close_dead_associations
from worker.storage.refusals import Refusals
from worker.storage.retention import remove_old_pixels
from worker.storage.scrub import SCRUB_SECONDS, Scrub

_SETTLE_SECONDS = 0.1  # the longest delay beyond `quiet_seconds`; a query takes a millisecond
_RETENTION_SECONDS = 600.0
_REFUSALS_SECONDS = 5.0
_SLOWEST_COUNT_SECONDS = 1.0
_FASTEST_COUNT_SECONDS = 0.1


def start_receive_ticks(
    settings: Settings,
    database: Database,
    clock: Callable[[], datetime],
    record: RecordEvent = unrecorded,
    refusals: Refusals | None = None,
) -> BackgroundScheduler:
    """Settle series, ask peers for their counts, close dead associations, delete old pixels, compare stored files,
    store refusal counts.

    The caller shuts the scheduler down.
    """

    def settle() -> None:
        if refusals is not None:
            refusals.write_instances()  # series wait for what was refused of them
        settle_series(database, settings, clock(), record)

    def close_associations() -> None:
        close_dead_associations(settings, database, clock(), record, process_name())

    def delete_old_pixels() -> None:
        remove_old_pixels(database, settings, clock(), record)

    ticks = [
        Tick("settle", _SETTLE_SECONDS, settle),
        Tick("associations", settings.worker.lease_seconds / 3, close_associations),
        Tick("retention", _RETENTION_SECONDS, delete_old_pixels),
        Tick("scrub", SCRUB_SECONDS, Scrub(settings, database, clock, record).run),
    ]
    if refusals is not None:
        ticks.append(Tick("refusals", _REFUSALS_SECONDS, refusals.write))
    seconds = min(_SLOWEST_COUNT_SECONDS, max(_FASTEST_COUNT_SECONDS, settings.receive.quiet_seconds / 10))
    for peer in settings.peer:
        if peer.query:
            from worker.receive.peer_count import count_series

            count = partial(count_series, database, settings, peer, clock)
            ticks.append(Tick(f"count-{peer.ae_title}", seconds, count))
    return start_ticks(ticks)
