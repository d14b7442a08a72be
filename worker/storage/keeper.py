"""Store an instance: validate, write, fsync, commit the row; only then is 0x0000 answered (architecture, invariant 1).

The handlers of many associations write their files concurrently; one of the waiting threads commits the rows of all in
one transaction, so that they share the cost of a durable commit. The receiving process never decodes pixels.

A file is named by its content. So it can be written to its final path before the database is queried, and the file, its
folder and those of other associations reach the disk by the same commit of the file system's journal.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path

from worker.audit import events
from worker.config import routing
from worker.db.arrivals import Arrivals
from worker.db.engine import Database, DatabaseError, IntegrityError, is_out_of_space
from worker.db.instances import NewInstance, add_instances, stored_instances
from worker.files import fsync
from worker.logs import fault_fields, get_log
from worker.stage_times import timed
from worker.storage.acceptance import StoreRequest
from worker.storage.folders import FolderSync
from worker.storage.integrity import fault_of
from worker.storage.pending import PendingCommit, StoreOutcome
from worker.storage.produced import is_held
from worker.storage.similar_headers import HeaderReader
from worker.storage.spool import Content, FileContent, SpooledFile, incoming_path, no_space, refusal_of
from worker.storage.versions.comparison import StoredContent, difference
from worker.storage.versions.repetition import Repetitions

_BATCH = 128
_GATHER_SECONDS = 0.002
_FOLDERS_AT_ONCE = 8
_FULL_BYTES = 1 << 20
_COMPARISONS = 8  # each with content that another receiver stored meanwhile
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class InstanceKeeper:
    """Stores instances durably: `keep` returns when the bytes and the row are on disk."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        clock: Callable[[], datetime],
        minimum_free_bytes: int,
        routes: Sequence[routing.RouteSection] = (),
        record: events.RecordEvent = events.unrecorded,
        rules: str | None = None,
    ) -> None:
        """`rules`: their fingerprint; what other rules refused opens again when its instances come again."""
        self._record = record
        self._rules = rules
        self._database, self._arrivals = database, Arrivals(database)
        self._data_dir = data_dir
        self._clock = clock
        self._minimum_free_bytes = minimum_free_bytes
        self._headers = HeaderReader(routes, database.pseudonym)
        self._incoming = data_dir / "instances" / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._pending: deque[PendingCommit] = deque()
        self._writing = 0
        self._is_committing = False  # a thread commits what is pending
        self._queue, self._commit_lock = threading.Condition(threading.Lock()), threading.Lock()
        self._folders = FolderSync(_FOLDERS_AT_ONCE)

    def keep(self, request: StoreRequest) -> StoreOutcome:
        """Store an instance. Raises RefusedInstance with the status to answer; then nothing is stored."""
        with timed("instance", "header"):
            new = self._headers.read(request)
        if is_held(self._database, new):
            return StoreOutcome.REPEATED
        try:
            # What was spooled is on the disk, where it stays.
            self._check_space(0 if isinstance(request.encoded, SpooledFile) else len(request.encoded))
            with timed("instance", "write"):
                pending = self._write(new, request.encoded)
            temporary = pending.file if pending.file != pending.path else None
            try:
                with timed("instance", "commit"):
                    return self._commit_compared(pending)
            finally:
                if temporary is not None:
                    Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise refusal_of(error) from None
        except DatabaseError as error:
            if is_out_of_space(error) or self._is_full():
                raise no_space() from None
            if not self._incoming.is_dir():  # the database was in the folder that was removed
                raise refusal_of(OSError(errno.ENOENT, "the data folder is missing")) from None
            raise

    def _commit_compared(self, pending: PendingCommit) -> StoreOutcome:
        """Commit an instance; other content than is stored under its UID after it was compared with that."""
        for _ in range(_COMPARISONS):
            outcome = self._commit_with_others(pending)
            if isinstance(outcome, StoreOutcome):
                return outcome
            # Here, in the sender's own thread and without a lock: both files are read.
            pending = pending.after_comparison(outcome, difference(outcome, self._data_dir, pending.new, pending.file))
            with self._queue:
                self._writing += 1
        raise RuntimeError("the stored content of an instance changes all the time")

    def close(self) -> None:
        """Stop storing instances."""
        self._folders.close()

    def _check_space(self, size: int) -> None:
        if shutil.disk_usage(self._incoming).free - size < self._minimum_free_bytes:
            raise OSError(errno.ENOSPC, "below [receive] minimum_free_bytes")

    def _is_full(self) -> bool:
        """Whether the disk has no room for another page: SQLite then reports faults of several names."""
        try:
            return shutil.disk_usage(self._data_dir).free < _FULL_BYTES
        except OSError:
            return False

    # --- the file ---

    def _write(self, new: NewInstance, content: Content) -> PendingCommit:
        with self._queue:
            self._writing += 1  # until it is pending
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

    def _write_durably(self, new: NewInstance, content: Content) -> PendingCommit:
        """Write and fsync the file and its name, at its final path or, where that exists, below instances/incoming.

        A large instance has come into a file there already; it is moved before its row is committed.
        """
        path = f"{self._data_dir}/{new.path}"
        if isinstance(content, FileContent):
            inode = content.sync()
            there = fault_of(path, new.sha256, new.size) if os.path.exists(path) else None
            return PendingCommit(new, content.path, path, inode, there)
        file, descriptor = self._create(path)
        try:
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
                # Concurrently: one commit of the file system's journal serves file and folder, where one after the
                # other takes two commits, the longest part of receiving (docs/performance.md).
                folders = self._folders.begin(os.path.dirname(path)) if file == path else []
                os.fsync(descriptor)
                if folders:
                    self._folders.end(folders)
                inode = os.fstat(descriptor).st_ino
            except BaseException:
                self._unlink(file, descriptor)
                raise
        finally:
            os.close(descriptor)
        # Here, in the sender's own thread: nobody waits for it but who sends an instance again.
        replaces = fault_of(path, new.sha256, new.size) if file != path else None
        return PendingCommit(new, file, path, inode, replaces)

    def _create(self, path: str) -> tuple[str, int]:
        """A new file at `path`, and its descriptor.

        Where `path` exists, as a file of the same content or what a crash left of it, it is not replaced yet: the new
        file is below instances/incoming.
        """
        try:
            return path, os.open(path, _NEW_FILE, 0o640)
        except FileExistsError:
            temporary = incoming_path(self._incoming)
            return temporary, os.open(temporary, _NEW_FILE, 0o640)
        except FileNotFoundError:
            folder = os.path.dirname(path)
            self._folders.forget(folder)
            os.makedirs(folder, exist_ok=True)
            return self._create(path)

    def _unlink(self, file: str, descriptor: int) -> None:
        """Delete a file, unless another of the same content has replaced it since."""
        with self._commit_lock:
            try:
                if os.path.samestat(os.stat(file), os.fstat(descriptor)):
                    os.unlink(file)
            except FileNotFoundError:
                pass

    # --- the row ---

    def _commit_with_others(self, pending: PendingCommit) -> StoreOutcome | StoredContent:
        """Commit what is pending, this instance included; if another thread is committing, wait for it instead."""
        with self._queue:
            self._pending.append(pending)
            self._end_of_writing()
            commits, self._is_committing = not self._is_committing, True
        if not commits:
            pending.turn.acquire()
        if pending.outcome is None and pending.fault is None:  # it has waited longest, so it is in the next batch
            self._commit_next(pending)
        if pending.outcome is None:
            raise pending.fault or RuntimeError("an instance was not committed")
        return pending.outcome

    def _commit_next(self, own: PendingCommit) -> None:
        """Commit a batch, whose first instance is the caller's; the thread that has then waited longest goes next.

        Whatever is raised, every waiting thread gets an answer or its turn.
        """
        batch: list[PendingCommit] = []
        try:
            with self._queue:  # include what is being written: a commit costs more than the rows in it
                self._queue.wait_for(lambda: not self._writing, _GATHER_SECONDS)
            with self._commit_lock:
                batch = self._next_batch()
                self._commit_batch(batch)
        except BaseException as fault:
            for pending in batch or [own]:
                if pending.outcome is None and pending.fault is None:
                    pending.fault = fault if pending is own else RuntimeError("the commit of a batch ended early")
            raise
        finally:
            with self._queue:
                if own in self._pending:  # it was not taken into a batch
                    self._pending.remove(own)
                following = self._pending[0] if self._pending else None
                self._is_committing = following is not None
            if following is not None:
                following.turn.release()
            for pending in batch:
                if pending is not own:
                    pending.turn.release()

    def _next_batch(self) -> list[PendingCommit]:
        """The instances that have waited longest; an instance that arrived twice goes into two batches."""
        batch: dict[str, PendingCommit] = {}
        with self._queue:
            for pending in islice(self._pending, _BATCH):
                if pending.new.sop_instance_uid in batch:
                    break
                batch[pending.new.sop_instance_uid] = pending
            taken = list(batch.values())
            for _ in taken:
                self._pending.popleft()
        return taken

    def _commit_batch(self, batch: Sequence[PendingCommit]) -> None:
        """Commit all in one transaction; if that fails, each in its own, so that a fault affects only its instance."""
        try:
            outcomes = self._commit_new(batch) or self._commit(batch)
        except Exception as error:  # every waiting handler must get an answer
            if len(batch) == 1:
                batch[0].fault = error
                get_log().error("instance not stored", **fault_fields(error))
                return
            for pending in batch:
                self._commit_batch([pending])
            return
        for pending, outcome in zip(batch, outcomes, strict=True):
            pending.outcome = outcome

    def _commit_new(self, batch: Sequence[PendingCommit]) -> list[StoreOutcome | StoredContent]:
        """Fast path: assume that all instances are new; empty if any is not."""
        if any(pending.file != pending.path for pending in batch):
            return []
        new, now = [pending.new for pending in batch], self._clock()
        if not self._arrivals.add(new, now):
            try:
                with self._database.begin() as connection:
                    add_instances(connection, new, now)
            except IntegrityError:
                return []
        return [StoreOutcome.STORED] * len(batch)

    def _commit(self, batch: Sequence[PendingCommit]) -> list[StoreOutcome | StoredContent]:
        with self._database.write() as session:
            now = self._clock()
            stored = stored_instances(session, [pending.new.sop_instance_uid for pending in batch])
            new = [pending for pending in batch if pending.new.sop_instance_uid not in stored]
            known = [pending for pending in batch if pending.new.sop_instance_uid in stored]
            again = Repetitions(session, self._data_dir, now, self._rules)
            outcomes = again.store([(pending, stored[pending.new.sop_instance_uid]) for pending in known])
            folders = again.folders.union(*(pending.move(pending.path) for pending in new))
            if new:
                add_instances(session, [pending.new for pending in new], now)
            for folder in folders:
                fsync(folder)
        for event in again.events:
            self._record(event)
        for path in again.obsolete:
            (self._data_dir / path).unlink(missing_ok=True)
        found = dict(zip(known, outcomes, strict=True))
        return [found.get(pending, StoreOutcome.STORED) for pending in batch]
