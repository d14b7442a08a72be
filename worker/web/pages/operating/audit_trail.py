"""GET /audit: the newest records of this host's audit trail, for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from worker.audit import events
from worker.audit.recorder import audit_faults, host_name
from worker.audit.verify import newest_entries
from worker.web.dependencies import Operator, Site
from worker.web.filters import LARGEST_NUMBER
from worker.web.pages.layout import render_page

_A_PAGE = 100


def audit_trail_page(site: Site) -> APIRouter:
    """The page; it needs a token that operates, and the trail records who read it."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/audit")
    def audit(caller: Operator, before: Annotated[int | None, Query(ge=1, le=LARGEST_NUMBER)] = None) -> Response:
        entries = newest_entries(site.settings, _A_PAGE, before)
        site.record(events.trail_read(caller.name, str(site.settings.audit_dir)))
        with site.database.read() as session:
            faults = audit_faults(session)
        older = entries[-1].number if len(entries) == _A_PAGE and entries[-1].number > 1 else None
        return render_page(
            site, "audit.html", caller, entries=entries, host=host_name(site.settings), faults=faults,
            before=before, older=older,
        )  # fmt: skip

    return routes
