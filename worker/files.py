"""What must be on disk before something is answered or said."""

from __future__ import annotations

import os
from pathlib import Path


def fsync(path: str | Path) -> None:
    """A file's content, or a folder's names, are on disk afterwards. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
