"""Whether a stored file is what was received: its size, then its SHA-256, which the row has.

Whoever reads a file for a peer, a viewer or a model compares it first, and records a fault: the file counts as damaged
or missing until it is replaced by the same content, sent again, or is whole when it is read the next time.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from worker.audit import events
from worker.db.engine import Database
from worker.db.instances import (
    FILE_REASONS,
    StoredFile,
    add_file_fault,
    clear_file_faults,
    faulty_paths,
    resume_series,
    series_of,
)
from worker.db.tables import FileFault
from worker.errors import Park
from worker.logs import get_log
from worker.process import process_name

_READ_BYTES = 1 << 20
_TRUSTED_SECONDS = 600.0
_TRUSTED_FILES = 10_000
_DETAILS = {
    FileFault.DAMAGED: "a stored file is damaged: send the series again, or restore the file from a backup",
    FileFault.MISSING: "a stored file is missing from the data folder: send the series again, or restore it",
}


class FaultyFile(Park):
    """A stored file is damaged or missing."""

    def __init__(self, fault: FileFault) -> None:
        super().__init__(FILE_REASONS[fault], _DETAILS[fault])
        self.fault = fault


def fault_of(path: Path | str, sha256: str, size: int | None = None) -> FileFault | None:
    """What is wrong with a file, None where it is whole. A disk that cannot be read counts as damage."""
    reading = read_to_compare(path, sha256, size)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            fault: FileFault | None = end.value
            return fault


def read_to_compare(path: Path | str, sha256: str, size: int | None = None) -> Generator[int, None, FileFault | None]:
    """`fault_of` in pieces: yields the number of bytes of each piece that was read, and returns the fault."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            if size is not None and os.fstat(file.fileno()).st_size != size:
                return FileFault.DAMAGED
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
                yield len(piece)
    except (FileNotFoundError, NotADirectoryError):
        return FileFault.MISSING
    except OSError:
        return FileFault.DAMAGED
    return None if digest.hexdigest() == sha256 else FileFault.DAMAGED


class Integrity:
    """Compares files, and records the faults: in the database, the log and the audit trail."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        clock: Callable[[], datetime],
        record: events.RecordEvent = events.unrecorded,
    ) -> None:
        self._database = database
        self._data_dir = data_dir
        self._clock = clock
        self._record = record
        self._trusted: OrderedDict[tuple[str, int, int, int], float] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, files: Sequence[StoredFile]) -> dict[str, FileFault]:
        """Compare files and record what is found; the faults by path. A file that is whole again has none."""
        found = {file.path: fault for file in files if (fault := self._fault(file)) is not None}
        self.record_faults(files, found)
        return found

    def require(self, files: Sequence[StoredFile]) -> None:
        """Raises FaultyFile where any is damaged or missing."""
        faults = self.check(files)
        if faults:
            raise FaultyFile(min(faults.values()))

    def path(self, file: StoredFile) -> Path:
        """The path of a file that is whole. Raises FaultyFile.

        A file that has not changed since is not compared again for ten minutes: a viewer asks for every frame.
        """
        path = self._data_dir / file.path
        try:
            stat = os.stat(path)
            key = (file.path, stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            key = None
        now = time.monotonic()
        with self._lock:
            if key is not None and now - self._trusted.get(key, -_TRUSTED_SECONDS) < _TRUSTED_SECONDS:
                return path
        self.require([file])
        if key is not None:
            with self._lock:
                self._trusted[key] = now
                self._trusted.move_to_end(key)
                if len(self._trusted) > _TRUSTED_FILES:
                    self._trusted.popitem(last=False)
        return path

    def record_faults(self, compared: Sequence[StoredFile], found: Mapping[str, FileFault]) -> None:
        """Record the faults of files that were compared, and forget those of files that are whole again."""
        paths = [file.path for file in compared]
        with self._database.read() as session:
            known = {path for start in range(0, len(paths), 500) for path in faulty_paths(session, paths[start:][:500])}
        new = [file for file in compared if file.path in found and file.path not in known]
        healed = [file for file in compared if file.path in known and file.path not in found]
        if not new and not healed:
            return
        with self._database.write() as session:
            now = self._clock()
            added = [file for file in new if add_file_fault(session, file, found[file.path], now)]
            for file in healed:
                clear_file_faults(session, [file.path])
                if (series := series_of(session, file)) is not None:
                    resume_series(session, series, now)
        for file in added:
            fault = found[file.path]
            get_log().error("stored file is faulty", fault=fault, kind=file.kind, row=file.id)
            self._record(events.file_fault(process_name(), file.path, fault))
        for file in healed:
            get_log().info("stored file is whole again", kind=file.kind, row=file.id)

    def _fault(self, file: StoredFile) -> FileFault | None:
        return fault_of(self._data_dir / file.path, file.sha256, file.size)
