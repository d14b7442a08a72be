"""Folders synced while their caller syncs a file."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from worker.files import fsync

_KNOWN = 10_000


class FolderSync:
    """Threads of its own: os.fsync waits, and takes no processor.

    They take work from a queue that hands it over in a microsecond; an executor's futures take thirty, in the thread
    that receives.
    """

    def __init__(self, threads: int) -> None:
        self._work: SimpleQueue[_Sync | None] = SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._threads = [threading.Thread(target=self._run, name="folders", daemon=True) for _ in range(threads)]
        for one in self._threads:
            one.start()
        self._known: set[str] = set()  # folders whose own names are durable

    def begin(self, folder: str) -> Sequence[_Sync]:
        """Begin to sync a folder, and for the first time those that its own name needs, its parent and that one's.

        Raises OSError after `close`.
        """
        above = os.path.dirname(folder)
        folders = [folder] if folder in self._known else [folder, above, os.path.dirname(above)]
        begun = [_Sync(one) for one in folders]
        with self._lock:
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "nothing is kept any more")
            for one in begun:
                self._work.put(one)
        return begun

    def end(self, begun: Sequence[_Sync]) -> None:
        """Return when all are on disk. Raises OSError."""
        for one in begun:
            one.done.acquire()
            if one.fault is not None:
                raise one.fault
        if len(self._known) > _KNOWN:
            self._known.clear()
        self._known.add(begun[0].folder)

    def forget(self, folder: str) -> None:
        """It was not there: its name is to be made durable anew."""
        self._known.discard(folder)

    def close(self) -> None:
        """Finish what was begun; what comes later is refused."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._work.put(None)
        for one in self._threads:
            one.join()

    def _run(self) -> None:
        while (sync := self._work.get()) is not None:
            try:
                fsync(sync.folder)
            except OSError as error:
                sync.fault = error
            sync.done.release()


class _Sync:
    """One folder on its way; `done` can be acquired when it is over."""

    __slots__ = ("done", "fault", "folder")

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.fault: OSError | None = None
        self.done = threading.Lock()
        self.done.acquire()
