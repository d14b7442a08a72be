"""Which associations belong to a configured application entity: by the calling AE title, and by the address."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from worker.config.sections import ApplicationEntity

_RESOLVED_SECONDS = 60.0

IpAddress = IPv4Address | IPv6Address


class KnownPeers:
    """The configured application entities. An AE title alone proves nothing: anybody can call by it."""

    def __init__(
        self,
        entities: Iterable[ApplicationEntity],
        allowed_titles: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`allowed_titles` are known from any address, unless an entity has the title."""
        self._entities: dict[str, list[ApplicationEntity]] = {}
        for entity in entities:
            self._entities.setdefault(entity.ae_title, []).append(entity)
        self._allowed = frozenset(allowed_titles)
        self._clock = clock
        self._resolved: dict[str, tuple[float, frozenset[IpAddress]]] = {}

    def __bool__(self) -> bool:
        return bool(self._entities or self._allowed)

    def find(self, ae_title: str, address: str) -> ApplicationEntity | None:
        """The entity of that AE title whose host has the address."""
        here = plain_address(address)
        if here is None:
            return None
        entities = self._entities.get(ae_title, ())
        return next((entity for entity in entities if here in self._addresses(entity.host)), None)

    def is_known(self, ae_title: str, address: str) -> bool:
        """Whether an association from `address` is a configured peer's."""
        if ae_title in self._entities:
            return self.find(ae_title, address) is not None
        return ae_title in self._allowed

    def _addresses(self, host: str) -> frozenset[IpAddress]:
        """The addresses of a host, resolved once a minute: a stranger does not make us ask the name server."""
        expires, addresses = self._resolved.get(host, (0.0, frozenset()))
        if self._clock() >= expires:
            addresses = resolve(host)
            self._resolved[host] = (self._clock() + _RESOLVED_SECONDS, addresses)
        return addresses


def resolve(host: str) -> frozenset[IpAddress]:
    """The addresses of a host; none where the name is unknown."""
    try:
        found = {plain_address(str(info[4][0])) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(address for address in found if address is not None)


def plain_address(address: str) -> IpAddress | None:
    """An address, IPv4 where an IPv6 socket shows it mapped; None for what is none."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
