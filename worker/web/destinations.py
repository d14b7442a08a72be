"""The configured destinations as pages and API show them, and whether a destination answers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastapi import HTTPException

from worker.errors import WorkerError
from worker.send.destinations import destinations_of
from worker.send.destinations.base import Destination
from worker.web.dependencies import Site


@dataclass(frozen=True, slots=True)
class DestinationAnswer:
    """Where reports and pictures go; `address` is host:port or a URL."""

    name: str
    protocol: str
    ae_title: str | None
    address: str


@dataclass(frozen=True, slots=True)
class EchoAnswer:
    """Whether a destination answered; `reason` and `detail` say why not."""

    answers: bool
    milliseconds: int
    reason: str | None = None
    detail: str | None = None


def describe_destinations(site: Site) -> tuple[DestinationAnswer, ...]:
    """Every destination of the configuration, in its order."""
    described = [(destination.name, destination.describe()) for destination in destinations_of(site.settings)]
    return tuple(DestinationAnswer(name, text.protocol, text.ae_title, text.address) for name, text in described)


def require_destination(site: Site, name: str) -> Destination:
    """The destination of a name. Raises HTTPException 404."""
    for destination in destinations_of(site.settings):
        if destination.name == name:
            return destination
    raise HTTPException(404, "there is no such destination in the configuration")


def echo(site: Site, destination: Destination) -> EchoAnswer:
    """C-ECHO, or the question that its protocol has instead, and how long the answer took."""
    started = time.monotonic()
    try:
        destination.probe(site.settings.worker.ae_title)
    except WorkerError as fault:
        return EchoAnswer(False, _milliseconds_since(started), fault.reason, fault.detail)
    return EchoAnswer(True, _milliseconds_since(started))


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
