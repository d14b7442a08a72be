"""Who is dead: leases are taken from nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from worker.process import is_running


def test_a_process_is_running_until_it_ends() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(process.pid)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is not reaped: a zombie
    assert os.path.exists(f"/proc/{process.pid}")
    assert not is_running(process.pid)
    process.communicate()
    assert not is_running(process.pid)
