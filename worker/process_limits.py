"""Limits of time and memory for this process, held by the kernel: a codec in C may hold the interpreter's lock."""

from __future__ import annotations

import ctypes
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_limits = {"decoder_seconds": 0.0}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGE_BYTES = 1 << 20


def end_process_after(seconds: float) -> None:
    """End this process by SIGALRM in that time, also inside a C library; 0 cancels the limit."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def limit_decoders(seconds: float) -> None:
    """End this process by SIGVTALRM when a file takes more of its processor time to decode; 0 sets no limit."""
    _limits["decoder_seconds"] = seconds


@contextmanager
def limited_decoder() -> Iterator[None]:
    """What `limit_decoders` limits, file by file: a codec can be slow or hang, and a job may hold many files."""
    signal.setitimer(signal.ITIMER_VIRTUAL, _limits["decoder_seconds"])
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def limit_memory(more_bytes: int) -> None:
    """Let this process, its models loaded, allocate `more_bytes` more and no more; 0 sets no limit.

    What exceeds the limit raises MemoryError, or fails in the C library that asked for it. Linux counts private
    writable memory (RLIMIT_DATA), so the address space that threads and libraries reserve does not matter.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return  # not Linux: the service manager's limit is the only limit
    [used] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")]
    if more_bytes:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = used + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def return_large_blocks() -> None:
    """Give what is freed of a MiB and more back to the system at once, whatever thread had it.

    Otherwise glibc (mallopt(3)) keeps such blocks for reuse, up to 32 MiB of them in every thread's own arena, and each
    connection is a thread. Up to two MiB of smaller freed blocks stay with a thread; without them it would return the
    pages of each image and fetch them again for the next. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)


def allow_open_files(count: int) -> None:
    """Let this process have that many files and sockets open, as far as the administrator's limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard) if hard >= 0 else count, hard))


def lift_memory_limit() -> None:
    """Undo `limit_memory`, so that a model can be loaded."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
