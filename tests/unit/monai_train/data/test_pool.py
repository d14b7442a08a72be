"""Work on many files: in order, on several processes, and no process outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_train.data.pool import map_files
from tests.testbed.waiting import wait_until


def square(n: int) -> tuple[int, int]:
    return n * n, os.getpid()


def test_outcomes_keep_the_order_in_one_process_and_in_several() -> None:
    assert list(map_files(square, range(10), "few")) == [(n * n, os.getpid()) for n in range(10)]
    outcomes = list(map_files(square, range(300), "many"))
    assert [value for value, _ in outcomes] == [n * n for n in range(300)]
    assert ((os.cpu_count() or 1) < 2) == (os.getpid() in {pid for _, pid in outcomes})


def leave_a_mark_and_sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(0.5)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor works without child processes")
def test_killed_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    code = (
        "from monai_train.data.pool import map_files\n"
        "from tests.unit.monai_train.data.test_pool import leave_a_mark_and_sleep\n"
        f"list(map_files(leave_a_mark_and_sleep, [{str(tmp_path)!r}] * 1000, 'sleep'))\n"
    )
    root = Path(__file__).parents[4]
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) >= 2, "both children to start", 60, every=0.1)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    children = [int(mark.name) for mark in tmp_path.iterdir()]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the children to end", 60, every=0.1)
