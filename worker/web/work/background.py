"""Work that an operator asks for and that takes longer than a request: in threads of the web process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from worker.errors import WorkerError
from worker.logs import fault_fields, get_log

_REMEMBERED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A piece of work that was begun since this process started; `reason` and `detail` say why it failed."""

    number: int = 0
    by: str
    started_at: datetime
    state: Literal["running", "done", "failed"] = "running"
    reason: str | None = None
    detail: str | None = None


W = TypeVar("W", bound=Work)


class Background(Generic[W]):
    """Work of a kind, each piece in a thread of its own; what runs is remembered, and the newest that have ended."""

    def __init__(self, name: str, at_once: int) -> None:
        """`name` is that of the threads, and of the work in the log."""
        self._name, self._at_once = name, at_once
        self._lock = threading.Lock()
        self._known: list[W] = []
        self._last = 0

    def newest(self) -> list[W]:
        with self._lock:
            return list(reversed(self._known))

    def start(
        self, work: W, run: Callable[[W], dict[str, Any]], excludes: Callable[[W], bool] = lambda _running: False
    ) -> bool:
        """Begin; False while as many run as may, or work runs that `excludes` it.

        `run` does it and returns what has changed at the end: `state` and the like. What it raises is the detail of
        failed work, in words for a WorkerError.
        """
        with self._lock:
            running = [known for known in self._known if known.state == "running"]
            if len(running) >= self._at_once or any(excludes(known) for known in running):
                return False
            self._last += 1
            begun = replace(work, number=self._last)
            ended = [known for known in self._known if known.state != "running"][1 - _REMEMBERED :]
            self._known = sorted([*ended, *running, begun], key=lambda known: known.number)
        threading.Thread(target=self._run, args=(begun, run), name=self._name, daemon=True).start()
        return True

    def change(self, number: int, **values: Any) -> None:
        with self._lock:
            for place, known in enumerate(self._known):
                if known.number == number:
                    self._known[place] = replace(known, **values)

    def _run(self, begun: W, run: Callable[[W], dict[str, Any]]) -> None:
        try:
            self.change(begun.number, **run(begun))
        except WorkerError as fault:
            self.change(begun.number, state="failed", reason=fault.reason, detail=fault.detail)
        except Exception as error:  # a thread's boundary
            get_log().error(f"{self._name} failed", **fault_fields(error))
            internal = "an internal fault; the log says where"
            self.change(begun.number, state="failed", reason="internal-fault", detail=internal)
