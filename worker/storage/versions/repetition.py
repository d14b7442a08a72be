"""Instances whose UIDs have rows already, within the transaction that stores them: repeated, corrected or in conflict.

A correction replaces what is stored, whose file stays beside the new file as an earlier version. So nothing is
overwritten, and all that changes, changes with the commit.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from worker.audit import events
from worker.audit.messages import AuditEvent
from worker.db.engine import Session
from worker.db.instances import NewInstance, clear_file_faults, restore_instance, resume_series
from worker.db.series import record_repetitions
from worker.db.tables import Decision, FileFault, InstanceRow
from worker.db.versions.conflicts import add_conflict, decide_conflict
from worker.db.versions.corrections import Correction, correct_instances, lock_instances
from worker.logs import get_log
from worker.process import process_name
from worker.storage.acceptance import conflict_path
from worker.storage.integrity import fault_of
from worker.storage.pending import PendingCommit, StoreOutcome
from worker.storage.versions.comparison import StoredContent


class Repetitions:
    """What one transaction makes of instances that came again.

    After `store`, before the commit: `folders` are to be fsynced. After the commit: `events` are to be recorded, and
    the files at `obsolete`, below the data folder, deleted.
    """

    def __init__(self, session: Session, data_dir: Path, now: datetime, rules: str | None) -> None:
        self._session = session
        self._data_dir = data_dir
        self._now = now
        self._rules = rules
        self.folders: set[str] = set()
        self.events: list[AuditEvent] = []
        self.obsolete: list[str] = []

    def store(self, known: Sequence[tuple[PendingCommit, InstanceRow]]) -> list[StoreOutcome | StoredContent]:
        """Store instances, each with the row of its UID; their outcomes, in order."""
        if different := [row.id for pending, row in known if row.sha256 != pending.new.sha256]:
            lock_instances(self._session, different)
        repeated: list[tuple[InstanceRow, NewInstance]] = []
        corrected: list[tuple[InstanceRow, NewInstance]] = []
        outcomes = [self._store(pending, row, repeated, corrected) for pending, row in known]
        record_repetitions(self._session, repeated, self._rules, self._now)
        if corrected:
            corrections = correct_instances(self._session, corrected, self._now)
            self.events += correction_events(corrections)
            for row, new in corrected:
                self.obsolete += decide_conflict(self._session, row.id, new.sha256, Decision.ACCEPTED, self._now)
        return outcomes

    def _store(
        self,
        pending: PendingCommit,
        stored: InstanceRow,
        repeated: list[tuple[InstanceRow, NewInstance]],
        corrected: list[tuple[InstanceRow, NewInstance]],
    ) -> StoreOutcome | StoredContent:
        if stored.sha256 == pending.new.sha256:
            repeated.append((stored, pending.new))
            return self._repeat(pending, stored)
        content = StoredContent.of(stored)
        if pending.compared is None or pending.compared[0] != content:
            return content
        difference = pending.compared[1]
        if difference is not None:
            conflict = conflict_path(pending.new)
            self._move(pending, f"{self._data_dir}/{conflict}")
            clear_file_faults(self._session, [conflict])
            add_conflict(self._session, stored, pending.new, conflict, self._now, difference)
            get_log().warning("other content of an instance is set aside", instance_row=stored.id, differs=difference)
            return StoreOutcome.CONFLICTING
        self._move(pending, pending.path)
        clear_file_faults(self._session, [pending.new.path])
        corrected.append((stored, pending.new))
        get_log().info("instance corrected", instance_row=stored.id)
        return StoreOutcome.CORRECTED

    def _repeat(self, pending: PendingCommit, stored: InstanceRow) -> StoreOutcome:
        """Take the same content again: its file may be deleted by retention, damaged or missing."""
        path = f"{self._data_dir}/{stored.path}"
        if stored.removed_at is not None:
            self._move(pending, path)
            clear_file_faults(self._session, [stored.path])
            restore_instance(self._session, stored, pending.new.association_id, self._now)
            return StoreOutcome.STORED
        fault = _fault_of_stored(pending, path)
        if fault is not None:
            self._move(pending, path)
            get_log().warning("a faulty file was replaced by its repetition", instance_row=stored.id, fault=fault)
            study = pending.new.study_instance_uid
            self.events.append(events.file_replaced(process_name(), stored.path, fault, study))
        elif pending.file != path:
            Path(pending.file).unlink(missing_ok=True)
        if clear_file_faults(self._session, [stored.path]) or fault is not None:
            resume_series(self._session, stored.series_id, self._now)
        return StoreOutcome.REPEATED

    def _move(self, pending: PendingCommit, path: str) -> None:
        self.folders |= pending.move(path)


def correction_events(corrections: Sequence[Correction], by: str | None = None) -> list[AuditEvent]:
    """The events of corrections, those of one study in one event; `by`: who accepted them."""
    counts: dict[tuple[tuple[str, str], tuple[str, str]], Counter[str]] = {}
    for correction in corrections:
        counts.setdefault((correction.before, correction.after), Counter())[correction.sop_class_uid] += 1
    return [
        events.corrected(process_name(), events.Transferred(*before, number), events.Transferred(*after, number), by)
        for (before, after), number in counts.items()
    ]


def _fault_of_stored(pending: PendingCommit, path: str) -> FileFault | None:
    """What was wrong with the stored file of an instance that came again, None where it is whole.

    It is compared again under the commit's lock: another thread may have been writing it the first time.
    """
    if pending.file != pending.path or pending.path != path:
        needs_look = pending.replaces is not None or pending.path != path
        return fault_of(path, pending.new.sha256, pending.new.size) if needs_look else None
    # Nothing was at its path when it was written. If its own file is still there, the stored file was gone;
    # else another thread stored the same instance meanwhile.
    return FileFault.MISSING if os.stat(path).st_ino == pending.inode else None
