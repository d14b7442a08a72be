"""/api/v1/conflicts: contents with other pixels under known SOP Instance UIDs, and the decision on each."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, HTTPException

from worker.db.views.conflicts import Conflict, list_conflicts
from worker.storage.versions.conflicts import Conflicts, NoSuchConflict, UnusableConflict
from worker.web.dependencies import After, Limit, Operator, Reader, RowNumber, Site, api_router
from worker.web.errors import CONFLICT, NOT_FOUND


@dataclass(frozen=True, slots=True)
class ConflictPage:
    """Oldest first; ask again with `after` set to the last number."""

    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """The number of the conflict that was decided."""

    number: int


def conflicts_api(site: Site) -> APIRouter:
    """The routes; a decision needs a token that operates."""
    routes = api_router("conflicts")
    decisions = Conflicts(site.database, site.settings, site.record)

    @routes.get("/conflicts")
    def list_waiting_conflicts(caller: Reader, after: After = 0, limit: Limit = 50) -> ConflictPage:
        """Contents that wait for a decision; what is stored under their UIDs is used meanwhile."""
        with site.database.read() as session:
            return ConflictPage(tuple(list_conflicts(session, after, limit)))

    @routes.post("/conflicts/{number}/accept", responses=NOT_FOUND | CONFLICT)
    def accept_conflict(number: RowNumber, caller: Operator) -> Decided:
        """The content replaces what is stored; the series is settled again, and a new report replaces the earlier."""
        try:
            decisions.accept(number, caller.name, caller.address, site.clock())
        except NoSuchConflict as fault:
            raise HTTPException(404, fault.detail) from None
        except UnusableConflict as fault:
            raise HTTPException(409, fault.detail) from None
        return Decided(number)

    @routes.post("/conflicts/{number}/reject", responses=NOT_FOUND)
    def reject_conflict(number: RowNumber, caller: Operator) -> Decided:
        """The content is deleted; what is stored stays."""
        try:
            decisions.reject(number, caller.name, caller.address, site.clock())
        except NoSuchConflict as fault:
            raise HTTPException(404, fault.detail) from None
        return Decided(number)

    return routes
