"""Validate, write, fsync, commit the row, then answer 0x0000 (architecture, invariant 1).

Handlers of many associations write their files side by side; one of those that wait commits the rows of all in one
transaction, so that the price of a durable commit is shared. The receiving process never decodes pixels.

A file is named by its content. So it can be written in its place before the database is asked, and the file, its folder
and those of other associations reach the disk by one commit of the file system's journal.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from worker.config import routing
from worker.db.engine import Database, IntegrityError, Session
from worker.db.instances import NewInstance, add_conflict, add_instances, restore_instance, stored_instances
from worker.db.tables import InstanceRow
from worker.dicom import standard
from worker.errors import RefusedInstance
from worker.files import fsync
from worker.logs import fault_fields, get_log
from worker.process import is_running
from worker.storage.acceptance import StoreRequest, conflict_path, describe, instance_path, pseudonymised
from worker.storage.folders import FolderSync

_BATCH = 128
_GATHER_SECONDS = 0.002
_FOLDERS_AT_ONCE = 8
_OTHERS_LEFTOVER_SECONDS = 86400.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class StoreOutcome(StrEnum):
    """What became of an instance that is answered 0x0000."""

    STORED = "stored"
    REPEATED = "repeated"
    CONFLICTING = "conflicting"  # the same UID with other content: the first stays, this one is kept aside


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True)
class _PendingCommit:
    """An instance whose bytes are on disk and whose row is not; the thread that commits it sets `outcome` or `fault`.

    `file` is where the bytes are: in `place`, or below instances/incoming where that name was taken. `turn` can be
    acquired when it is committed, or when its own thread is to commit what waits.
    """

    new: NewInstance
    file: str
    place: str
    outcome: StoreOutcome | None = None
    fault: Exception | None = None
    turn: threading.Lock = field(default_factory=_held_lock)


class InstanceKeeper:
    """Keeps instances durably: `keep` returns when the bytes and the row are on disk."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        clock: Callable[[], datetime],
        minimum_free_bytes: int,
        routes: Sequence[routing.RouteSection] = (),
    ) -> None:
        self._database = database
        self._data_dir = data_dir
        self._clock = clock
        self._minimum_free_bytes = minimum_free_bytes
        self._routes = routes
        self._incoming = data_dir / "instances" / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._waiting: deque[_PendingCommit] = deque()
        self._writing = 0
        self._commits = False  # a thread commits what waits
        self._queue, self._commit_lock = threading.Condition(threading.Lock()), threading.Lock()
        self._folders = FolderSync(_FOLDERS_AT_ONCE)

    def keep(self, request: StoreRequest) -> StoreOutcome:
        """Raises RefusedInstance with the status to answer; then nothing was kept."""
        new = describe(request, instance_path, self._routes, hide=self._database.pseudonym is not None)
        if self._database.pseudonym is not None:
            new = pseudonymised(new, self._database.pseudonym)
        try:
            self._check_space(len(request.encoded))
            waiting = self._written(new, request.encoded)
            temporary = waiting.file if waiting.file != waiting.place else None
            try:
                return self._commit_with_others(waiting)
            finally:
                if temporary is not None:
                    Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise _refusal(error) from None

    def close(self) -> None:
        """Nothing is kept any more."""
        self._folders.close()

    def _check_space(self, size: int) -> None:
        if shutil.disk_usage(self._incoming).free - size < self._minimum_free_bytes:
            raise OSError(errno.ENOSPC, "below [receive] minimum_free_bytes")

    # --- the file ---

    def _written(self, new: NewInstance, content: bytes | bytearray) -> _PendingCommit:
        with self._queue:
            self._writing += 1  # until it waits for its commit
        try:
            return self._write_durably(new, content)
        except BaseException:
            with self._queue:
                self._end_of_writing()
            raise

    def _end_of_writing(self) -> None:
        self._writing -= 1
        if not self._writing:
            self._queue.notify()

    def _write_durably(self, new: NewInstance, content: bytes | bytearray) -> _PendingCommit:
        """The file and its name are on disk; in its place, or where that is taken below instances/incoming."""
        place = f"{self._data_dir}/{new.path}"
        file, descriptor = self._create(place)
        try:
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
                # Both at once: one commit of the file system's journal serves file and folder, where one after the
                # other takes two, the longest part of receiving (docs/performance.md).
                folders = self._folders.begin(os.path.dirname(place)) if file == place else []
                os.fsync(descriptor)
                if folders:
                    self._folders.end(folders)
            except OSError:
                self._unlink(file, descriptor)
                raise
        finally:
            os.close(descriptor)
        return _PendingCommit(new, file, place)

    def _create(self, place: str) -> tuple[str, int]:
        """A new file in that place, and its descriptor.

        Where a file of the same content has it, or what a crash left of one, which is never replaced unasked: below
        instances/incoming.
        """
        try:
            return place, os.open(place, _NEW_FILE, 0o640)
        except FileExistsError:
            temporary = f"{self._incoming}/{os.getpid()}-{uuid.uuid4().hex}-{socket.gethostname()}"
            return temporary, os.open(temporary, _NEW_FILE, 0o640)
        except FileNotFoundError:
            folder = os.path.dirname(place)
            self._folders.forget(folder)
            os.makedirs(folder, exist_ok=True)
            return self._create(place)

    def _unlink(self, file: str, descriptor: int) -> None:
        """Take a file back, unless another of the same content has come to its place since."""
        with self._commit_lock:
            try:
                if os.path.samestat(os.stat(file), os.fstat(descriptor)):
                    os.unlink(file)
            except FileNotFoundError:
                pass

    # --- the row ---

    def _commit_with_others(self, waiting: _PendingCommit) -> StoreOutcome:
        """Commit what waits, this one with it, unless another thread does so: then wait for it."""
        with self._queue:
            self._waiting.append(waiting)
            self._end_of_writing()
            commits, self._commits = not self._commits, True
        if not commits:
            waiting.turn.acquire()
        if waiting.outcome is None and waiting.fault is None:  # it waits longest, so it is in the next batch
            self._commit_next()
        if waiting.outcome is None:
            raise waiting.fault or RuntimeError("an instance was not committed")
        return waiting.outcome

    def _commit_next(self) -> None:
        """Commit a batch, of which the first is the caller's; then the one that waits longest commits the next."""
        with self._queue:  # what is being written comes along: a commit costs more than the rows in it
            self._queue.wait_for(lambda: not self._writing, _GATHER_SECONDS)
        with self._commit_lock:
            batch = self._next_batch()
            self._commit_batch(batch)
        with self._queue:
            following = self._waiting[0] if self._waiting else None
            self._commits = following is not None
        if following is not None:
            following.turn.release()
        for one in batch[1:]:
            one.turn.release()

    def _next_batch(self) -> list[_PendingCommit]:
        """What waits longest; an instance that came twice goes into two batches."""
        batch: dict[str, _PendingCommit] = {}
        while self._waiting and len(batch) < _BATCH and self._waiting[0].new.sop_instance_uid not in batch:
            one = self._waiting.popleft()
            batch[one.new.sop_instance_uid] = one
        return list(batch.values())

    def _commit_batch(self, batch: Sequence[_PendingCommit]) -> None:
        """All in one transaction; when that fails, each in its own, so that one fault harms one instance."""
        try:
            outcomes = self._commit_new(batch) or self._commit(batch)
        except Exception as error:  # every handler that waits must get an answer
            if len(batch) == 1:
                get_log().error("instance not stored", **fault_fields(error))
                batch[0].fault = error
                return
            for one in batch:
                self._commit_batch([one])
            return
        for one, outcome in zip(batch, outcomes, strict=True):
            one.outcome = outcome

    def _commit_new(self, batch: Sequence[_PendingCommit]) -> list[StoreOutcome]:
        """As if no instance had come before, which is what they mostly have not; none where one had."""
        if any(one.file != one.place for one in batch):
            return []
        try:
            with self._database.begin() as connection:
                add_instances(connection, [one.new for one in batch], self._clock())
        except IntegrityError:
            return []
        return [StoreOutcome.STORED] * len(batch)

    def _commit(self, batch: Sequence[_PendingCommit]) -> list[StoreOutcome]:
        folders: set[str] = set()
        with self._database.write() as session:
            stored = stored_instances(session, [one.new.sop_instance_uid for one in batch])
            outcomes = []
            for one in batch:
                row = stored.get(one.new.sop_instance_uid)
                if row is None:
                    self._name(one, one.place, folders)
                    outcomes.append(StoreOutcome.STORED)
                else:
                    outcomes.append(self._again(session, one, row, folders))
            fresh = [one.new for one in batch if one.new.sop_instance_uid not in stored]
            if fresh:
                add_instances(session, fresh, self._clock())
            for folder in folders:
                fsync(folder)
        return outcomes

    def _again(self, session: Session, waiting: _PendingCommit, stored: InstanceRow, folders: set[str]) -> StoreOutcome:
        """An instance of that UID has a row."""
        if stored.sha256 != waiting.new.sha256:
            aside = conflict_path(waiting.new)
            self._name(waiting, f"{self._data_dir}/{aside}", folders)
            add_conflict(session, stored, waiting.new, aside, self._clock())
            get_log().warning("instance came again with other content, which is kept aside", instance_row=stored.id)
            return StoreOutcome.CONFLICTING
        place = f"{self._data_dir}/{stored.path}"
        if stored.removed_at is not None:
            self._name(waiting, place, folders)
            restore_instance(session, stored, self._clock())
            return StoreOutcome.STORED
        if waiting.file != place:
            Path(waiting.file).unlink(missing_ok=True)
        return StoreOutcome.REPEATED

    def _name(self, waiting: _PendingCommit, place: str, folders: set[str]) -> None:
        """Have a written file in that place, and note the folders to fsync before the commit."""
        folder = os.path.dirname(place)
        folders.add(folder)
        if waiting.file != place:
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
                folders.update((os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))))
            # Named before the row exists: a crash in between leaves a file without a row, and the peer, which got no
            # answer, sends again.
            os.replace(waiting.file, place)
            waiting.file = place


def remove_leftovers(data_dir: Path) -> int:
    """Delete what a receiver that was killed had not finished; it was never acknowledged. Call before listening.

    Receivers of several hosts may share the folder: of another host's files only those of an earlier day are removed.
    """
    leftovers = [path for path in (data_dir / "instances" / "incoming").glob("*-*") if _is_leftover(path)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _is_leftover(path: Path) -> bool:
    pid, _, rest = path.name.partition("-")
    host = rest.partition("-")[2]
    if host != socket.gethostname():
        try:
            return time.time() - path.stat().st_mtime > _OTHERS_LEFTOVER_SECONDS
        except FileNotFoundError:
            return False
    return not pid.isdigit() or int(pid) == os.getpid() or not is_running(int(pid))


def _refusal(error: OSError) -> RefusedInstance:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RefusedInstance(standard.OUT_OF_RESOURCES, "no-space", "the data folder has no room for the instance")
    return RefusedInstance(standard.PROCESSING_FAILURE, "storage-fault", f"the file could not be kept ({error.errno})")
