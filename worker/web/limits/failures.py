"""Counts of failures within the last minute, by whom they come from."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Hashable

_SECONDS = 60.0
_REMEMBERED = 10_000


class Failures:
    """Counts up to `most` and one more for each key; the keys that failed least recently are forgotten."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._times: OrderedDict[Hashable, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, key: Hashable) -> int:
        """Count a failure; the number so far, at most the limit plus 1."""
        with self._lock:
            times = self._times.get(key, deque())
            while times and times[0] < time.monotonic() - _SECONDS:
                times.popleft()
            if len(times) <= self.most:
                times.append(time.monotonic())
            self._times[key] = times
            self._times.move_to_end(key)
            if len(self._times) > _REMEMBERED:
                self._times.popitem(last=False)
            return len(times)
