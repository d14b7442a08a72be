"""Files below instances/incoming that a killed receiver left: see storage.keeper."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from worker.process import is_running

_OTHERS_LEFTOVER_SECONDS = 86400.0


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
