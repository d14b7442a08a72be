"""Whether a process goes on working, told to its supervisor: a thread that beats proves only that it has threads.

Each part of a role that must go round (the acceptor, the event loop, the job loop, a destination's loop) promises when
it will be back. While all keep their promises a byte a second goes down a pipe. A process that is stopped, whose
interpreter is held by a library, or one of whose parts hangs falls silent, and the supervisor replaces it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

SUPERVISED = "BRAIN_MRI_WORKER_SUPERVISED"  # set in a child's environment: it ends with its supervisor
PULSE = "BRAIN_MRI_WORKER_PULSE"  # set in a child's environment: the number of the pipe's descriptor
_BEAT_SECONDS = 1.0


class Pulse:
    """The promises of the parts of this process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._due: dict[str, float] = {}

    def part(self, name: str) -> Callable[[float], None]:
        """For a part of the role: call it with the seconds within which the part will call it again."""

        def promise(seconds: float) -> None:
            self._due[name] = self._monotonic() + seconds

        return promise

    def is_steady(self) -> bool:
        """Whether every part has kept its promise."""
        now = self._monotonic()
        return all(due >= now for due in list(self._due.values()))

    def start_telling(self, done: threading.Event) -> None:
        """Tell the supervisor, if there is any, until `done`."""
        descriptor = os.environ.pop(PULSE, None)
        if descriptor is not None:
            arguments = (int(descriptor), done)
            threading.Thread(target=self._tell, args=arguments, name="pulse", daemon=True).start()

    def _tell(self, descriptor: int, done: threading.Event) -> None:
        while True:
            if self.is_steady():
                try:
                    os.write(descriptor, b".")
                except OSError:  # the supervisor has died, and this process ends with it
                    return
            if done.wait(_BEAT_SECONDS):
                return
