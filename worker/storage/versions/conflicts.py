"""An operator's decision on content with other pixels that came under a known SOP Instance UID."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from worker.audit import events
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import NewInstance, clear_file_faults
from worker.db.tables import ConflictRow, Decision
from worker.db.versions.conflicts import decide_conflict, find_conflict
from worker.db.versions.corrections import correct_instances, is_named, lock_instances
from worker.errors import RefusedInstance, WorkerError
from worker.logs import get_log
from worker.storage.acceptance import read_instance, request_of_file
from worker.storage.integrity import fault_of
from worker.storage.spool import FileContent
from worker.storage.versions.repetition import correction_events


class NoSuchConflict(WorkerError):
    """It was decided already, or never was."""

    def __init__(self) -> None:
        super().__init__("no-such-conflict", "there is no such conflict")


class UnusableConflict(WorkerError):
    """Its file cannot be taken: it is damaged or missing, or today's receiver would refuse it."""


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Carries decisions out, each in one transaction, and audits them; `by` is who decided."""

    database: Database
    settings: Settings
    record: events.RecordEvent

    def accept(self, number: int, by: str, address: str | None, now: datetime) -> None:
        """The content replaces what is stored, as a correction does. Raises NoSuchConflict, UnusableConflict.

        Its file stays where it is: only rows change, so that a crash leaves the conflict or the correction.
        """
        with self.database.read() as session:
            found = find_conflict(session, number)
        if found is None:
            raise NoSuchConflict
        new = self._read(found[0])
        with self.database.write() as session:
            lock_instances(session, [found[0].instance_id])
            current = find_conflict(session, number)
            if current is None:
                raise NoSuchConflict
            conflict, row = current
            corrections = correct_instances(session, [(row, new)], now, by[:64])
            decide_conflict(session, row.id, conflict.sha256, Decision.ACCEPTED, now, by[:64])
        for event in correction_events(corrections, by):
            self.record(event)
        self._decided(number, "accept", by, address)

    def reject(self, number: int, by: str, address: str | None, now: datetime) -> None:
        """The content is deleted. Raises NoSuchConflict.

        Its file is deleted before its row: after a crash in between the decision is given again.
        """
        with self.database.write() as session:
            found = find_conflict(session, number)
            if found is None:
                raise NoSuchConflict
            conflict, row = found
            lock_instances(session, [row.id])
            if not is_named(session, row.id, conflict.path):
                (self.settings.worker.data_dir / conflict.path).unlink(missing_ok=True)
                clear_file_faults(session, [conflict.path])
            decide_conflict(session, row.id, conflict.sha256, Decision.REJECTED, now, by[:64])
        self._decided(number, "reject", by, address)

    def _read(self, conflict: ConflictRow) -> NewInstance:
        """What the row of its instance is to be. Raises UnusableConflict."""
        path = self.settings.worker.data_dir / conflict.path
        if fault := fault_of(path, conflict.sha256, conflict.size):
            raise UnusableConflict(f"file-{fault}", f"the file of the conflict is {fault}: have it sent again")
        content = FileContent(str(path), conflict.size, conflict.sha256)
        try:
            request = request_of_file(content, conflict.association_id)
            return read_instance(
                request, lambda _series, _sha256: conflict.path, self.settings.route, self.database.pseudonym
            )
        except RefusedInstance as refusal:
            raise UnusableConflict(refusal.reason, "the content of the conflict is not a valid instance") from None

    def _decided(self, number: int, decision: str, by: str, address: str | None) -> None:
        self.record(events.operated(by, address, f"conflict {number}: {decision}"))
        get_log().info("conflict decided", conflict_row=number, decision=decision)
