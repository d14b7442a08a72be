"""The content of an instance while it arrives: in memory while it is small, else in a file below instances/incoming.

So the memory of all associations is bounded: what no longer fits in `memory_bytes` goes to a file however small it is.
A file tells whose it is, so that what a killed process leaves is removed at start.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import BinaryIO

from worker.dicom import standard
from worker.errors import RefusedInstance
from worker.process import is_running

SPOOL_BYTES = 4 << 20
_CHECK_BYTES = 16 << 20  # between two looks at the free space
_OTHERS_LEFTOVER_SECONDS = 86400.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def incoming_path(folder: Path) -> str:
    """A new path below instances/incoming, which tells whose it is."""
    return f"{folder}/{os.getpid()}-{uuid.uuid4().hex}-{socket.gethostname()}"


class FileContent:
    """The content of an instance in a file. Its methods raise OSError."""

    def __init__(self, path: str, size: int = 0, sha256: str = "") -> None:
        self.path = path
        self._size = size
        self._sha256 = sha256

    def __len__(self) -> int:
        return self._size

    def sha256(self) -> str:
        return self._sha256

    def open(self) -> BinaryIO:
        return open(self.path, "rb")

    def beginning(self, count: int) -> bytes:
        """The first bytes."""
        with self.open() as file:
            return file.read(count)

    def sync(self) -> int:
        """Bring the content to the disk; the number of the inode."""
        with self.open() as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_ino


class SpooledFile(FileContent):
    """The content of an instance in a file that grows."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._descriptor = os.open(path, _NEW_FILE, 0o640)
        self._digest = hashlib.sha256()

    def append(self, content: bytes | bytearray | memoryview) -> None:
        self._digest.update(content)
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._size += len(content)

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def sync(self) -> int:
        os.fsync(self._descriptor)
        return os.fstat(self._descriptor).st_ino

    def discard(self) -> None:
        """Close and delete the file, unless it has been moved to where it belongs."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        Path(self.path).unlink(missing_ok=True)


Content = bytes | bytearray | FileContent


class Spool:
    """Collects contents, with no more than `memory_bytes` of all of them in memory."""

    def __init__(self, folder: Path, memory_bytes: int, minimum_free_bytes: int) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._minimum_free_bytes = minimum_free_bytes
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """How much is in memory now."""
        return self._held

    def append(self, content: bytearray | SpooledFile, value: bytes | memoryview) -> bytearray | SpooledFile:
        """The content with `value` at its end: the same object, or the file that takes its place.

        Raises OSError when there is no space; then the content is as it was.
        """
        if isinstance(content, SpooledFile):
            if len(content) // _CHECK_BYTES != (len(content) + len(value)) // _CHECK_BYTES:
                self._require_space()
            content.append(value)
            return content
        if len(content) + len(value) <= SPOOL_BYTES and self._take(len(value)):
            content += value
            return content
        self._require_space()
        file = SpooledFile(incoming_path(self._folder))
        try:
            file.append(content)
            file.append(value)
        except BaseException:
            file.discard()
            raise
        return file

    def release(self, collected: int) -> None:
        """So many bytes that were appended in memory are held no longer."""
        with self._lock:
            self._held -= collected

    def _take(self, count: int) -> bool:
        with self._lock:
            if self._held + count > self._memory_bytes:
                return False
            self._held += count
            return True

    def _require_space(self) -> None:
        if shutil.disk_usage(self._folder).free < self._minimum_free_bytes:
            raise OSError(errno.ENOSPC, "below [receive] minimum_free_bytes")


def no_space() -> RefusedInstance:
    """What an instance is refused with that the disk has no room for."""
    return RefusedInstance(standard.OUT_OF_RESOURCES, "no-space", "no space for the instance in the data directory")


def refusal_of(error: OSError) -> RefusedInstance:
    """What an instance is refused with whose file could not be written: in each case the peer may try again later.

    A data folder that was removed or unmounted, a read-only or broken disk is a resource that is out, like a full disk.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return no_space()
    detail = f"the file could not be stored ({error.errno})"
    return RefusedInstance(standard.OUT_OF_RESOURCES, "storage-fault", detail)


def remove_leftovers(data_dir: Path) -> int:
    """Delete files that a killed receiver did not finish, and never acknowledged. Call before listening.

    Receivers on several hosts may share the folder, so another host's files are deleted only when they are a day old.
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
