"""fsync folders in threads of their own, while the caller syncs a file."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from worker.files import fsync

_KNOWN = 10_000


class FolderSync:
    """Threads that fsync folders; they wait for the disk and use no processor.

    They take work from a queue, which hands it over in a microsecond; an executor's futures take thirty, in the thread
    that receives.
    """

    def __init__(self, threads: int) -> None:
        self._work: SimpleQueue[_Sync | None] = SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._threads = [threading.Thread(target=self._run, name="folders", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()
        self._known: set[str] = set()  # folders whose own names are durable

    def begin(self, folder: str) -> Sequence[_Sync]:
        """Begin to sync a folder; the first time also its parent and grandparent, which make its own name durable.

        Raises OSError after `close`.
        """
        above = os.path.dirname(folder)
        folders = [folder] if folder in self._known else [folder, above, os.path.dirname(above)]
        begun = [_Sync(path) for path in folders]
        with self._lock:
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "no more instances are stored")
            for sync in begun:
                self._work.put(sync)
        return begun

    def end(self, begun: Sequence[_Sync]) -> None:
        """Wait until all are on disk. Raises OSError."""
        for sync in begun:
            sync.done.acquire()
            if sync.fault is not None:
                raise sync.fault
        if len(self._known) > _KNOWN:
            self._known.clear()
        self._known.add(begun[0].folder)

    def forget(self, folder: str) -> None:
        """The folder did not exist: its name must be made durable again."""
        self._known.discard(folder)

    def close(self) -> None:
        """Finish what was begun, and refuse further work."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (sync := self._work.get()) is not None:
            try:
                fsync(sync.folder)
            except BaseException as error:  # a thread's boundary: the thread that waits gets it
                sync.fault = error
            finally:
                sync.done.release()


class _Sync:
    """A folder that is being synced; `done` can be acquired when that has ended."""

    __slots__ = ("done", "fault", "folder")

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.fault: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()
