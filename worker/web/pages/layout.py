"""The frame of every page: navigation, the count of what needs attention, and what is suspended."""

from __future__ import annotations

from typing import Any

from fastapi.responses import HTMLResponse

from worker.db.operating.suspensions import list_suspensions
from worker.db.views import activity
from worker.web.dependencies import Site
from worker.web.guard import Caller
from worker.web.templating import render


def render_page(site: Site, template: str, caller: Caller, status: int = 200, **values: Any) -> HTMLResponse:
    """A template within the frame; `attention` counts parked jobs and failed deliveries."""
    with site.database.read() as session:
        parked, failed = activity.parked_counts(session)
        suspended = list_suspensions(session)
    frame = {"attention": parked + failed, "suspended": suspended}
    return HTMLResponse(render(template, caller, **frame, **values), status)
