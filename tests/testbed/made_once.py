"""What several processes of a run of the tests need and take seconds to make: the first makes it, all copy it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "TESTS_MADE_ONCE"  # an environment variable: the folder in which the processes of a run keep what is made


def once(name: str, make: Callable[[Path], Any]) -> Path | None:
    """The path of that name, made by `make` unless a process of this run has made it; the others wait meanwhile.

    It belongs to all processes: read or copy it only. None outside a run of the tests, where nothing is kept.
    """
    if FOLDER not in os.environ:
        return None
    path = Path(os.environ[FOLDER]) / name
    finished = path.with_name(f"{name}.finished")
    with path.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(path, ignore_errors=True)  # of a process that failed on its way
            make(path)
            finished.touch()
    return path


def copied(name: str, folder: Path, make: Callable[[Path], Any]) -> Path:
    """`folder`, which need not be new, with a copy of the folder that `make` fills; returned."""
    made = once(name, make)
    if made is None:
        make(folder)
    else:
        shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    return folder
