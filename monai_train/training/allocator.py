"""Keep memory that training frees for the next batch."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library


def keep_freed_memory() -> None:
    """Make the C library retain freed blocks of any size instead of returning them to the system.

    The activations of a batch are tens of megabytes each. The GNU C library maps such blocks anew every time, and the
    system clears their pages again: an eighth of a training step on two cores. No effect with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
