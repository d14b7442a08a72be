"""Who may hold a connection: places for associations, shared so that no peer keeps the others out.

A connection counts as an association once its A-ASSOCIATE-RQ is admitted. Until then it is silent: cut after
`request_seconds`, and sooner when there are too many, the oldest of the address that has most of them.

An address and an AE title have their share of the associations; the last places are for known peers, a [[peer]], a
[[destination]] or an AE title of `allowed_peers`. When a share is used up, an association that has done nothing for
`yield_seconds` makes room; a C-ECHO is nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_network

from worker.config.sections import ReceiveSection
from worker.network.known_peers import IpAddress

SILENT_AT_MOST = 64


def address_group(address: IpAddress | None) -> str:
    """Whose an address is: one host may use every address of an IPv6 /64."""
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), 64), strict=False))
    return str(address)


@dataclass(eq=False, slots=True)
class Place:
    """A connection. `cut` shuts it down at once; `end` aborts its association, and is absent before that exists."""

    address: str
    group: str
    opened: float
    cut: Callable[[], None]
    end: Callable[[], None] | None = None
    ae_title: str = ""
    is_known: bool = False
    is_admitted: bool = False
    admitted_at: float = 0.0
    ended_at: float | None = None
    last_work: float = 0.0
    _working: int = field(default=0, repr=False)

    def begin_work(self) -> None:
        """A request other than C-ECHO is being received or answered."""
        self._working += 1

    def end_work(self) -> None:
        """It has been answered."""
        self._working -= 1
        self.last_work = time.monotonic()

    def is_idle(self, now: float, seconds: float) -> bool:
        """Whether nothing has been done for so long; a transfer that stops in its middle is not work either."""
        return self._working <= 0 and now - self.last_work >= seconds


class Places:
    """The connections of the server."""

    def __init__(self, limits: ReceiveSection, *, reserve: bool) -> None:
        """`reserve`: there are known peers, for which places are reserved."""
        self._limits = limits
        total = limits.maximum_associations
        self._strangers = total - min(limits.reserved_associations, total - 1) if reserve else total
        self._places: set[Place] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def connect(self, place: Place) -> Place | None:
        """Add a silent connection; the silent connection that has to be cut for it, if any."""
        with self._lock:
            silent = [other for other in self._places if not other.is_admitted]
            self._places.add(place)
            if len(silent) < SILENT_AT_MOST:
                return None
            by_group = Counter(other.group for other in silent)
            victim = min(silent, key=lambda other: (-by_group[other.group], other.opened))
            self._places.discard(victim)
        return victim

    def leave(self, place: Place) -> None:
        """A connection has ended."""
        with self._lock:
            self._places.discard(place)

    def admit(self, place: Place, ae_title: str, is_known: bool) -> tuple[bool, list[Place]]:
        """Whether a connection that requests an association may have it, and the idle ones that end for it."""
        now = time.monotonic()
        with self._lock:
            place.ae_title, place.is_known = ae_title, is_known
            admitted = [other for other in self._places if other.is_admitted]
            ended: list[Place] = []
            for share, size in self._shares(place, admitted):
                while len(share) - sum(other in share for other in ended) >= size:
                    victim = self._idle_longest([other for other in share if other not in ended], place, now)
                    if victim is None:
                        return False, []
                    ended.append(victim)
            for other in ended:
                other.is_admitted, other.ended_at = False, now
            place.is_admitted, place.admitted_at, place.last_work = True, now, now
        return True, ended

    def admitted(self) -> list[Place]:
        """The associations."""
        with self._lock:
            return [place for place in self._places if place.is_admitted]

    def overdue(self, now: float) -> list[Place]:
        """The connections that have been silent too long; the peer of an ended association has had time to see it."""
        seconds = self._limits.request_seconds
        with self._lock:
            silent = [other for other in self._places if not other.is_admitted]
        return [other for other in silent if now - (other.ended_at or other.opened) >= seconds]

    def _shares(self, place: Place, admitted: Sequence[Place]) -> list[tuple[list[Place], int]]:
        """The groups of associations in which there has to be a place, and how many each may have."""
        limits = self._limits
        same_title = [
            other for other in admitted if other.ae_title == place.ae_title and other.is_known == place.is_known
        ]
        shares = [(same_title, limits.maximum_associations_per_ae_title)]
        if not place.is_known:
            strangers = [other for other in admitted if not other.is_known]
            same_address = [other for other in strangers if other.group == place.group]
            shares += [(same_address, limits.maximum_associations_per_address), (strangers, self._strangers)]
        return [*shares, (list(admitted), limits.maximum_associations)]

    def _idle_longest(self, share: Sequence[Place], place: Place, now: float) -> Place | None:
        """The association of a share that makes room: a stranger's first, of the address that has most."""
        counts = Counter(other.group for other in share)
        idle = [
            other
            for other in share
            if other.is_idle(now, self._limits.yield_seconds) and (place.is_known or not other.is_known)
        ]
        return min(idle, key=lambda other: (other.is_known, -counts[other.group], other.last_work), default=None)
