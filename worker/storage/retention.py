"""Delete received pixels whose series was answered long enough ago; rows, results and reports stay."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.audit import events
from worker.audit.subjects import received_of
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import instances_of
from worker.db.series import lock_settled_series, series_to_empty
from worker.logs import get_log
from worker.process import process_name


def remove_old_pixels(
    database: Database, settings: Settings, now: datetime, record: events.RecordEvent = events.unrecorded
) -> int:
    """The number of files deleted; none with `pixel_days = 0`.

    A file goes before its row says so: a crash in between is found and finished the next time.
    """
    days = settings.retention.pixel_days
    if not days:
        return 0
    before = now - timedelta(days=days)
    removed = 0
    with database.read() as session:
        waiting = series_to_empty(session, before)
    for series_id in waiting:
        with database.write() as session:
            if not lock_settled_series(session, series_id, before):
                continue
            gone = received_of(session, series_id)
            for row in instances_of(session, series_id):
                if row.removed_at is None:
                    (settings.worker.data_dir / row.path).unlink(missing_ok=True)
                    row.removed_at = now
                    removed += 1
        for one in gone:
            record(events.pixels_deleted(process_name(), one))
    if removed:
        get_log().info("pixels removed by retention", series=len(waiting), files=removed)
    return removed
