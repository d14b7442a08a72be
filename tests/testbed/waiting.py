"""How long a test waits. A fixed number of seconds that an idle machine never needs is too short for a busy one.

So each wait is stated for an idle machine and grows with the load: at fifteen runnable processes on two cores a wait of
60 seconds lasts up to seven and a half minutes. A test that passes ends as soon as its condition holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def patience(seconds: float) -> float:
    """The limit in seconds, on this machine as busy as it is now, of what an idle one does in `seconds`."""
    return seconds * max(1.0, max(os.getloadavg()[:2]) / (os.cpu_count() or 1))


def wait_until(condition: Callable[[], T | None], what: str, seconds: float = 120, every: float = 0.3) -> T:
    """Return the first true answer of `condition`; TimeoutError naming what did not happen within `seconds`."""
    started = time.monotonic()
    while True:
        if answer := condition():
            return answer
        if (waited := time.monotonic() - started) > patience(seconds):
            raise TimeoutError(f"waited {waited:.0f} s for {what}")
        time.sleep(every)
