"""APScheduler ticks; they call stages and decide nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from apscheduler.schedulers.background import BackgroundScheduler

from worker import store
from worker.config import Settings
from worker.inbound.series import settle_series
from worker.logs import fault_fields, get_log

_SLOWEST_TICK_SECONDS = 1.0
_FASTEST_TICK_SECONDS = 0.1


def start_receive_ticks(
    settings: Settings, database: store.Store, model_id: int, clock: Callable[[], datetime]
) -> BackgroundScheduler:
    """Look for series that have settled, a few times within `quiet_seconds`; the caller shuts it down."""

    def settle() -> None:
        try:
            settle_series(database, settings, model_id, clock())
        except Exception as error:  # a tick's boundary; the next tick tries again
            get_log().error("settling failed", **fault_fields(error))

    seconds = min(_SLOWEST_TICK_SECONDS, max(_FASTEST_TICK_SECONDS, settings.receive.quiet_seconds / 10))
    scheduler = BackgroundScheduler(timezone="UTC")
    scheduler.add_job(settle, "interval", seconds=seconds, coalesce=True, max_instances=1, id="settle")
    scheduler.start()
    return scheduler
