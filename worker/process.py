"""The roles a process can have, its name, and whether it is still there: asked after a crash, on this host."""

from __future__ import annotations

import os
import socket
from enum import StrEnum
from pathlib import Path


class ProcessRole(StrEnum):
    RECEIVE = "receive"
    INFER = "infer"
    SEND = "send"
    WEB = "web"


def process_name() -> str:
    """Who we are to the other processes, on this host and on others: what leases and heartbeats carry."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_dead(name: str, host: str) -> bool:
    """True for a process of `host`, which is ours, that has ended; of another host nothing can be known here."""
    its_host, _, rest = name.partition(":")
    pid = rest.partition(":")[0]
    return its_host == host and pid.isdigit() and not is_running(int(pid))


def is_running(pid: int) -> bool:
    """False once it has ended, also while nobody has reaped it yet: a container's first process may take seconds."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
