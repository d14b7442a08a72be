"""Is a process that held a lease still there? Asked after a crash, of processes on this host."""

from __future__ import annotations

from pathlib import Path


def is_running(pid: int) -> bool:
    """False once it has ended, also while nobody has reaped it yet: a container's first process may take seconds."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
