"""Connections of the web port: how many there are, how many of an address, how long each may wait for its request.

A connection that has not sent a whole request head costs its sender nothing, so it never takes the place of another:
where an address, or the port, has as many connections as it may, the connection that waits longest for a request is
closed for the new connection. Only where all are busy with requests the new connection is closed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from ipaddress import ip_address
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.config.sections import WebSection
from worker.web.limits.addresses import network_of

CONNECTIONS = 512
CONNECTIONS_OF_AN_ADDRESS = 64
HEAD_SECONDS = 10.0
WRITE_SECONDS = 60.0


class Connections:
    """The open connections. All calls come from the event loop's thread."""

    def __init__(
        self,
        web: WebSection,
        total: int = CONNECTIONS,
        of_an_address: int = CONNECTIONS_OF_AN_ADDRESS,
        head_seconds: float = HEAD_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self._proxies = web.trusted_proxies
        self._total = total
        self._of_an_address = of_an_address
        self.head_seconds = head_seconds
        self.write_seconds = write_seconds
        self._open: OrderedDict[LimitedProtocol, str] = OrderedDict()  # those that wait longest first

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, protocol: LimitedProtocol, address: str) -> bool:
        """Whether a new connection may stay; a waiting connection is closed for it where need be."""
        sender = network_of(address)
        own = [other for other, name in self._open.items() if name == sender]
        if not self._is_proxy(address) and len(own) >= self._of_an_address and not _close_waiting(own):
            return False
        if len(self._open) >= self._total and not _close_waiting(list(self._open)):
            return False
        self._open[protocol] = sender
        return True

    def waits(self, protocol: LimitedProtocol) -> None:
        """A connection waits for its next request."""
        if protocol in self._open:
            self._open.move_to_end(protocol)

    def forget(self, protocol: LimitedProtocol) -> None:
        self._open.pop(protocol, None)

    def _is_proxy(self, address: str) -> bool:
        try:
            return any(ip_address(address) in network for network in self._proxies)
        except ValueError:
            return False


def _close_waiting(protocols: list[LimitedProtocol]) -> bool:
    for protocol in protocols:
        if protocol.is_waiting:
            protocol.end()
            return True
    return False


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with these limits; `limits` is set by `limited_protocol`."""

    limits: Connections

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.limits.admit(self, self.client[0] if self.client else ""):
            self.end()
            return
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self.end)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if not self.is_waiting:
            self._cancel_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self.end)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.limits.waits(self)
        self._cancel_head_timer()  # until the next byte the keep-alive limit holds

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self.end)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.forget(self)
        self._cancel_head_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def end(self) -> None:
        """Close the connection without waiting for what the client would still read."""
        self.limits.forget(self)
        self.transport.abort()

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class LimitedLoop(asyncio.SelectorEventLoop):
    """The event loop of the web server: a TLS handshake, too, must end soon; asyncio waits a minute for it."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HEAD_SECONDS)
        return await super().create_server(*arguments, **options)


def limited_protocol(connections: Connections) -> type[Any]:
    """The class that uvicorn makes a protocol of for each connection."""
    return type("LimitedProtocol", (LimitedProtocol,), {"limits": connections})
