"""Durable writes: a file is on disk, whole, before anything is answered or recorded about it."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def fsync(path: str | Path) -> None:
    """Flush a file's content, or a folder's entries, to disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file's content, all of it or nothing; text is written as UTF-8. Raises OSError.

    See `open_atomically`.
    """
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that becomes `path` when the block ends without a fault. Raises OSError.

    A reader, a full disk or a kill sees the whole previous file or the whole new file. After a fault `path` is as it
    was, and nothing else is left. An existing file keeps its mode; a new file has the mode that `open` gives.
    """
    # A random name, as another thread, or a process of the same number on another host, may write the same file.
    part = path.with_name(f"{path.name[:40]}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync(path.parent)
