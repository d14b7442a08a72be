"""GET /peers: destinations with their backlogs, and the systems that send to this worker."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from worker.audit import events
from worker.db.views import activity
from worker.web import destinations
from worker.web.dependencies import Operator, Reader, Site
from worker.web.destinations import describe_destinations, require_destination
from worker.web.pages.layout import render_page
from worker.web.templating import render


def peers_page(site: Site) -> APIRouter:
    """The page; its echo needs a token that operates."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/peers")
    def peers(caller: Reader) -> Response:
        described = describe_destinations(site)
        with site.database.read() as session:
            backlogs = {destination.name: activity.find_backlog(session, destination.name) for destination in described}
            senders = activity.sending_peers(session)
        return render_page(
            site,
            "peers.html",
            caller,
            destinations=described,
            backlogs=backlogs,
            senders=senders,
            settings=site.settings,
        )

    @routes.post("/peers/{name}/echo")
    def echo(request: Request, name: str, caller: Operator) -> Response:
        destination = require_destination(site, name)
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return HTMLResponse(render("echo.html", caller, name=name, answer=destinations.echo(site, destination)))

    return routes
