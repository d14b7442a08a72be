from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tests.testbed.instances import new_instance
from tests.testbed.waiting import wait_until
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.service.schedule import tick_now
from worker.service.web_ticks import start_web_ticks
from worker.web.monthly_report import written_months


def test_the_report_of_a_month_that_has_ended_is_written(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        add_instance(session, new_instance(1), datetime(2026, 3, 10, tzinfo=UTC))
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}})
    ticks = start_web_ticks(settings, database, lambda: datetime(2026, 4, 10, tzinfo=UTC))
    tick_now(ticks)  # not in an hour
    wait_until(lambda: written_months(tmp_path) == ["2026-03"], "the report to be written")
    ticks.shutdown(wait=True)
