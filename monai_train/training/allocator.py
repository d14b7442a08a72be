"""Memory that training frees is kept for the next batch."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks of any size for the process instead of giving them back to the system.

    The activations of a batch are tens of megabytes each. The GNU C library maps such blocks anew every time, and the
    system clears their pages again: an eighth of a training step on two cores. Where the C library is another one
    nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
