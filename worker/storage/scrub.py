"""Compare the stored files with their hashes, in turn and slowly, so that rot is found before anybody needs a file.

A pass goes over the received instances, the produced objects and the conflicts by the ids of their rows; the next pass
begins a day after it at the earliest. The position is in the database: a restart continues there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from datetime import datetime, timedelta

from worker.audit import events
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import StoredFile, files_after, move_scrub, scrub_position
from worker.db.tables import FileFault, FileKind
from worker.storage.integrity import Integrity, read_to_compare

SCRUB_SECONDS = 1.0  # between calls of `run`
_BATCH = 100
_BYTES_A_FILE = 16 << 10  # what opening a file counts as
_PAUSE = timedelta(days=1)
_SAVE = timedelta(seconds=30)


class Scrub:
    """Reads on by one second's bytes at each `run`, within a large file too."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        clock: Callable[[], datetime],
        record: events.RecordEvent = events.unrecorded,
    ) -> None:
        self._rate = settings.retention.scrub_bytes_per_second
        self._data_dir = settings.worker.data_dir
        self._database = database
        self._clock = clock
        self._integrity = Integrity(database, self._data_dir, clock, record)
        self._budget = 0
        self._passes = deque(_Pass(kind) for kind in FileKind)
        self._reading: Generator[int, None, FileFault | None] | None = None

    def run(self) -> int:
        """Read on; the number of files that were compared."""
        if not self._rate or not (self._data_dir / "instances").is_dir():  # a disk that is away is no rot: see /health
            return 0
        self._budget = min(self._budget, 0) + round(self._rate * SCRUB_SECONDS)
        compared = 0
        while self._budget > 0 and (current := self._current()) is not None:
            file = current.waiting[0]
            if self._reading is None:
                self._reading = read_to_compare(self._data_dir / file.path, file.sha256, file.size)
            try:
                self._budget -= next(self._reading)
            except StopIteration as end:
                self._reading = None
                self._budget -= _BYTES_A_FILE
                compared += 1
                self._end_file(current, file, end.value)
        return compared

    def _current(self) -> _Pass | None:
        """The pass with a file to compare; None while all wait for the next day."""
        for _ in range(len(self._passes)):
            current = self._passes[0]
            if current.waiting or self._load(current):
                return current
            self._passes.rotate(-1)
        return None

    def _load(self, current: _Pass) -> bool:
        now = self._clock()
        if current.not_before is not None and now < current.not_before:
            return False
        with self._database.read() as session:
            if current.began is None:
                current.last_id, not_before = scrub_position(session, current.kind)
                if not current.last_id and not_before is not None and now < not_before:
                    current.not_before = not_before
                    return False
                current.began = current.saved = now
            current.waiting.extend(files_after(session, current.kind, current.last_id, _BATCH))
        if current.waiting:
            return True
        current.last_id, current.not_before, current.began = 0, current.began + _PAUSE, None
        self._save(current, current.not_before)
        return False

    def _end_file(self, current: _Pass, file: StoredFile, fault: FileFault | None) -> None:
        current.waiting.popleft()
        current.last_id = file.id
        if fault is not None:
            self._integrity.check([file])  # again: it may have been replaced, or deleted, while it was read
        else:
            current.whole.append(file)
        if not current.waiting:
            self._integrity.record_faults(current.whole, {})
            current.whole.clear()
            now = self._clock()
            if current.saved is None or not timedelta() <= now - current.saved < _SAVE:
                self._save(current, now)
                current.saved = now

    def _save(self, current: _Pass, not_before: datetime) -> None:
        with self._database.write() as session:
            move_scrub(session, current.kind, current.last_id, not_before)


class _Pass:
    """A pass over the files of a kind."""

    def __init__(self, kind: FileKind) -> None:
        self.kind = kind
        self.last_id = 0
        self.began: datetime | None = None
        self.saved: datetime | None = None
        self.not_before: datetime | None = None
        self.waiting: deque[StoredFile] = deque()
        self.whole: list[StoredFile] = []
