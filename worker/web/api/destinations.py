"""/api/v1/destinations: where reports and pictures go, and whether a destination answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from worker.audit import events
from worker.web import destinations
from worker.web.dependencies import Operator, Reader, Site, api_router
from worker.web.destinations import DestinationAnswer, EchoAnswer, describe_destinations, require_destination
from worker.web.errors import NOT_FOUND


def destinations_api(site: Site) -> APIRouter:
    """The routes; an echo needs a token that operates."""
    routes = api_router("destinations")

    @routes.get("/destinations")
    def list_destinations(caller: Reader) -> tuple[DestinationAnswer, ...]:
        """Where reports and pictures go."""
        return describe_destinations(site)

    @routes.post("/destinations/{name}/echo", responses=NOT_FOUND)
    def echo(request: Request, name: Annotated[str, Path(max_length=64)], caller: Operator) -> EchoAnswer:
        """Test whether a destination answers: C-ECHO, or a request of its protocol that changes nothing."""
        destination = require_destination(site, name)
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return destinations.echo(site, destination)

    return routes
