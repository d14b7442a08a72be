"""APScheduler ticks; they call stages and decide nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from worker.audit.events import RecordEvent, unrecorded
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.logs import fault_fields, get_log
from worker.process import process_name
from worker.receive.peer_count import count_series
from worker.receive.settle import settle_series
from worker.receive.storage_scp import close_dead_associations
from worker.storage.refusals import Refusals
from worker.storage.retention import remove_old_pixels

_SLOWEST_TICK_SECONDS = 1.0
_SETTLE_SECONDS = 0.1  # what a series waits for beyond `quiet_seconds`; a look costs a millisecond
_FASTEST_TICK_SECONDS = 0.1
_RETENTION_SECONDS = 600.0
_REPORT_SECONDS = 3600.0
_REFUSALS_SECONDS = 5.0


def start_receive_ticks(
    settings: Settings,
    database: Database,
    clock: Callable[[], datetime],
    record: RecordEvent = unrecorded,
    refusals: Refusals | None = None,
) -> BackgroundScheduler:
    """Settle series, ask senders for their counts, delete old pixels, write how much was refused.

    The caller shuts it down.
    """

    def settle() -> None:
        settle_series(database, settings, clock())

    def give_up_the_dead() -> None:
        close_dead_associations(settings, database, clock(), record, process_name())

    def retain() -> None:
        remove_old_pixels(database, settings, clock(), record)

    def report() -> None:
        from worker.web.monthly_report import write_last_month  # the templates, which receiving does without

        write_last_month(database, settings.worker.data_dir, clock())

    seconds = min(_SLOWEST_TICK_SECONDS, max(_FASTEST_TICK_SECONDS, settings.receive.quiet_seconds / 10))
    asked = [one for one in settings.peer if one.query]
    # A thread for each peer beside ours: one that is slow holds up neither settling nor another peer.
    scheduler = BackgroundScheduler(timezone="UTC", executors={"default": ThreadPoolExecutor(4 + len(asked))})
    once = {"coalesce": True, "max_instances": 1}
    scheduler.add_job(_guarded, "interval", args=[settle], seconds=_SETTLE_SECONDS, id="settle", **once)
    silence = settings.worker.lease_seconds / 3
    scheduler.add_job(_guarded, "interval", args=[give_up_the_dead], seconds=silence, id="associations", **once)
    scheduler.add_job(_guarded, "interval", args=[retain], seconds=_RETENTION_SECONDS, id="retention", **once)
    # Looked at each hour: a month may end while the worker is down.
    scheduler.add_job(_guarded, "interval", args=[report], seconds=_REPORT_SECONDS, id="report", **once)
    if refusals is not None:
        args = [refusals.write]
        scheduler.add_job(_guarded, "interval", args=args, seconds=_REFUSALS_SECONDS, id="refusals", **once)
    for peer in asked:
        count = partial(count_series, database, settings, peer, clock)
        scheduler.add_job(_guarded, "interval", args=[count], seconds=seconds, id=f"count-{peer.ae_title}", **once)
    scheduler.start()
    return scheduler


def tick_now(scheduler: BackgroundScheduler) -> None:
    """The clock was set back: without this the next ticks come when it is again what it was."""
    for job in scheduler.get_jobs():
        job.modify(next_run_time=datetime.now(UTC))


def _guarded(tick: Callable[[], None]) -> None:
    try:
        tick()
    except Exception as error:  # a tick's boundary; the next one tries again
        get_log().error("tick failed", tick=getattr(tick, "__name__", "count"), **fault_fields(error))
