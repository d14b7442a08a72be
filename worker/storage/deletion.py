"""Delete a study at an operator's request: its files, then its rows. What was sent to other systems stays there."""

from __future__ import annotations

from dataclasses import dataclass

from worker.audit import events
from worker.audit.subjects import received_of_study
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.operating.deleting import StudyInUse, delete_study_rows, held_instances, lock_study_to_delete
from worker.files import fsync
from worker.logs import get_log


@dataclass(frozen=True, slots=True)
class DeletedStudy:
    """What was deleted: images that were stored, and files, which also hold reports, pictures and other versions."""

    study_instance_uid: str
    instances: int
    files: int


def delete_study(
    database: Database,
    settings: Settings,
    study_instance_uid: str,
    by: str,
    address: str | None = None,
    record: events.RecordEvent = events.unrecorded,
    expected: frozenset[tuple[str, str]] | None = None,
) -> DeletedStudy | None:
    """Delete a study with all that was made of it; None where there is no such study. Raises StudyInUse, OSError.

    With `expected`, as of `held_instances`, only where its images are still these. The files go before the rows are
    committed: after a crash in between the study is still listed, and is deleted by the same command.
    """
    folders = set()
    with database.write() as session:
        paths = lock_study_to_delete(session, study_instance_uid)
        if paths is None:
            return None
        if expected is not None and held_instances(session, study_instance_uid) != expected:
            raise StudyInUse("study-changed", "images of the study came or changed meanwhile; nothing was deleted")
        transferred = received_of_study(session, study_instance_uid)
        delete_study_rows(session, study_instance_uid, paths)  # first: it may fail, and would leave rows without files
        for path in paths:
            file = settings.worker.data_dir / path
            file.unlink(missing_ok=True)
            folders.add(file.parent)
        for folder in folders:
            if folder.is_dir():
                fsync(folder)
    for deleted in transferred or [events.Transferred(study_instance_uid, "", {})]:
        record(events.study_deleted(by, address, deleted))
    instances = sum(sum(deleted.sop_classes.values()) for deleted in transferred)
    get_log().info("study deleted", instances=instances, files=len(paths))
    return DeletedStudy(study_instance_uid, instances, len(paths))
