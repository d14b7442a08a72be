"""Map a function over many files: on every processor, in order, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")
Value = TypeVar("Value")

_FILES_PER_PROCESS = 64  # fewer files take less time than starting a process


def progress_bar() -> Progress:
    """A progress bar on standard error, so that standard output stays a table or JSON."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def map_files(work: Callable[[Item], Value], items: Sequence[Item], title: str) -> Iterator[Value]:
    """Apply `work` to every item, in order. Raises BrokenProcessPool if a process was killed."""
    processes = min(os.cpu_count() or 1, len(items) // _FILES_PER_PROCESS)
    with progress_bar() as progress:
        if processes < 2:
            yield from progress.track(map(work, items), len(items), description=title)
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent) as pool:
            yield from progress.track(pool.map(work, items, chunksize=16), len(items), description=title)


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
