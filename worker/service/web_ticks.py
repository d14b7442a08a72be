"""The ticks of the web role: the monthly report, which needs the templates that receiving does without."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from apscheduler.schedulers.background import BackgroundScheduler

from worker.config.settings import Settings
from worker.db.engine import Database
from worker.service.schedule import Tick, start_ticks
from worker.web.monthly_report import write_last_month

_REPORT_SECONDS = 3600.0  # a month may end while the worker is down


def start_web_ticks(settings: Settings, database: Database, clock: Callable[[], datetime]) -> BackgroundScheduler:
    """Write the report of the last month once it has ended. The caller shuts the scheduler down."""

    def report() -> None:
        write_last_month(database, settings.worker.data_dir, clock())

    return start_ticks([Tick("report", _REPORT_SECONDS, report)])
