"""What a peer does again and again within a minute is recorded a few times, then counted: strangers fill no disk.

Refusals count by what was refused and by the peer's address; so do accepted associations, with a much higher limit.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from worker.audit.messages import AuditEvent, EventOutcome

SECONDS = 60.0
REFUSALS_OF_A_PEER = 5
REFUSALS_OF_ALL = 100
CONNECTIONS_OF_A_PEER = 120
_PEERS = 1000
_CONNECTION = "110126"  # Node Authentication

Key = tuple[str, str, str]


@dataclass
class _Count:
    until: float
    recorded: int = 0
    more: int = 0
    last: AuditEvent | None = None


class Repeats:
    """Decides which events are recorded individually. Not thread-safe: the recorder's lock guards it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[Key, _Count] = {}
        self._all = _Count(0.0)

    def admits(self, event: AuditEvent) -> bool:
        """Whether an event is recorded itself; otherwise it is counted."""
        refused = event.outcome != EventOutcome.SUCCESS
        kind = event.type.value if event.type is not None else event.id.value
        if not refused and kind != _CONNECTION:
            return True
        now = self._clock()
        key = (kind, "refused" if refused else "accepted", _peer(event))
        if key not in self._counts and len(self._counts) >= _PEERS:
            key = (*key[:2], "other addresses")
        count = self._counts.setdefault(key, _Count(now + SECONDS))
        if now >= self._all.until:
            self._all = _Count(now + SECONDS)
        within = count.recorded < (REFUSALS_OF_A_PEER if refused else CONNECTIONS_OF_A_PEER)
        if within and (not refused or self._all.recorded < REFUSALS_OF_ALL):
            count.recorded += 1
            self._all.recorded += refused
            return True
        count.more += 1
        count.last = event
        return False

    def due(self, at_once: bool = False) -> list[AuditEvent]:
        """An event for each peer whose minute is over and of which more was counted than recorded."""
        now = self._clock()
        over = [key for key, count in self._counts.items() if at_once or count.until <= now]
        return [event for key in over if (event := _summary(self._counts.pop(key))) is not None]


def _peer(event: AuditEvent) -> str:
    requestors = [participant.address for participant in event.participants if participant.is_requestor]
    return next((address for address in requestors if address), "unknown")


def _summary(count: _Count) -> AuditEvent | None:
    if count.last is None:
        return None
    what = "of this kind within a minute"
    reason = f"; the last: {count.last.description}" if count.last.description else ""
    return dataclasses.replace(count.last, description=f"{count.more} more {what}{reason}")
