"""Delete the received files of studies whose results are old enough, with the earlier versions of their instances.

A study is emptied whole or not at all. Rows, results and reports are retained.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.audit import events
from worker.audit.subjects import received_of
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import clear_file_faults, instances_of
from worker.db.studies.emptying import lock_settled_study, studies_to_empty
from worker.db.tables import EarlierVersionRow, InstanceRow
from worker.db.versions.corrections import earlier_versions
from worker.logs import get_log
from worker.process import process_name


def remove_old_pixels(
    database: Database, settings: Settings, now: datetime, record: events.RecordEvent = events.unrecorded
) -> int:
    """Delete files by [retention] pixel_days, none where it is 0; the number of files.

    A file is deleted before its row is marked: a crash in between is completed the next time.
    """
    days = settings.retention.pixel_days
    if not days:
        return 0
    before = now - timedelta(days=days)
    removed = 0
    with database.read() as session:
        waiting = studies_to_empty(session, before)
    for uid in waiting:
        with database.write() as session:
            series = lock_settled_study(session, uid, before)
            deleted = received_of(session, series)
            rows: list[InstanceRow | EarlierVersionRow] = []
            for series_id in series:
                rows += [*instances_of(session, series_id), *earlier_versions(session, series_id)]
            for row in rows:
                if row.removed_at is None:
                    (settings.worker.data_dir / row.path).unlink(missing_ok=True)
                    row.removed_at = now
                    clear_file_faults(session, [row.path])
                    removed += 1
        for instances in deleted:
            record(events.pixels_deleted(process_name(), instances))
    if removed:
        get_log().info("pixels removed by retention", studies=len(waiting), files=removed)
    return removed
