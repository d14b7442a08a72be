"""The roles of the service's processes, a process's name, and whether a process of this host still runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

# How a part of a role tells that it goes on: with the seconds within which it will tell so again.
Promise = Callable[[float], None]


def unwatched(_seconds: float) -> None:
    """The promise of a part that nobody watches."""


class ProcessRole(StrEnum):
    """What a process of the service does."""

    RECEIVE = "receive"
    INFER = "infer"
    SEND = "send"
    WEB = "web"


def process_name() -> str:
    """The name of this process on all hosts, HOST:PID, as in leases and heartbeats."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_dead(name: str, host: str) -> bool:
    """Whether a process of `host`, which is this host, has ended; False for processes of other hosts."""
    its_host, _, rest = name.partition(":")
    pid = rest.partition(":")[0]
    return its_host == host and pid.isdigit() and not is_running(int(pid))


def is_running(pid: int) -> bool:
    """False once a process has ended, even before it is reaped: a container's first process may take seconds."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


def hide_files_from_others() -> None:
    """Write files, all of which may hold patients' data, for the worker's user and group only, whatever the umask."""
    os.umask(os.umask(0o077) | 0o007)
