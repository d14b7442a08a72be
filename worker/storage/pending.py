"""An instance whose bytes are on disk but whose row is not, until the commit of its batch."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field, replace
from enum import StrEnum

from worker.db.instances import NewInstance
from worker.db.tables import FileFault
from worker.dicom import standard
from worker.storage.versions.comparison import Difference, StoredContent


class StoreOutcome(StrEnum):
    """How an instance that is acknowledged was stored."""

    STORED = "stored"
    REPEATED = "repeated"
    CORRECTED = "corrected"  # the same UID and pixels with other attributes: it replaces the stored instance
    CONFLICTING = "conflicting"  # the same UID with other pixels: it waits for a decision, the stored instance stays


def status_of(outcome: StoreOutcome) -> int:
    """What C-STORE and STOW-RS answer: a warning where what was sent is not what is classified (PS3.4 B.2.3)."""
    return standard.COERCED if outcome is StoreOutcome.CONFLICTING else standard.SUCCESS


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class PendingCommit:
    """The thread that commits it sets `outcome` or `fault`.

    `file` is where the bytes are: at `path`, or below instances/incoming where that path exists already; `replaces` is
    what is wrong with the file at `path` then. `turn` can be acquired when the instance is committed, or when its own
    thread is to commit the next batch. An `outcome` that is a StoredContent means: nothing is committed, its own thread
    is to compare it with that first. `compared`: with what it was, and what differs.
    """

    new: NewInstance
    file: str
    path: str
    inode: int = 0
    replaces: FileFault | None = None
    compared: tuple[StoredContent, Difference | None] | None = None
    outcome: StoreOutcome | StoredContent | None = None
    fault: BaseException | None = None
    turn: threading.Lock = field(default_factory=_held_lock)

    def after_comparison(self, stored: StoredContent, found: Difference | None) -> PendingCommit:
        """The same, to be committed anew."""
        return replace(self, compared=(stored, found), outcome=None, turn=_held_lock())

    def move(self, path: str) -> set[str]:
        """Move the file to `path`, unless it is there; the folders to fsync before the commit."""
        folder = os.path.dirname(path)
        folders = {folder}
        if self.file != path:
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
                folders |= {os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))}
            # Before the row exists: a crash in between leaves a file without a row, and the peer, which got no answer,
            # sends it again.
            os.replace(self.file, path)
            self.file = path
        return folders
