"""/api/v1/suspensions: the stages that wait while receiving goes on; suspended and resumed."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request

from worker.audit import events
from worker.db.operating.suspensions import Suspension, list_suspensions, resume, suspend
from worker.db.tables import Stage
from worker.web.dependencies import Operator, Reader, Site, api_router


@dataclass(frozen=True, slots=True)
class Suspensions:
    """What is suspended now."""

    suspensions: tuple[Suspension, ...]


def suspensions_api(site: Site) -> APIRouter:
    """The routes; to suspend or resume needs a token that operates."""
    routes = api_router("suspensions")

    def now_suspended() -> Suspensions:
        with site.database.read() as session:
            return Suspensions(tuple(list_suspensions(session)))

    @routes.get("/suspensions")
    def list_suspended(caller: Reader) -> Suspensions:
        """The stages that are suspended, since when and by whom."""
        return now_suspended()

    @routes.put("/suspensions/{stage}")
    def suspend_stage(request: Request, stage: Stage, caller: Operator) -> Suspensions:
        """Suspend a stage: jobs and batches under way are finished, nothing else begins. A restart changes nothing."""
        with site.database.write() as session:
            suspend(session, [stage], caller.name, site.clock())
        site.record(events.operated(caller.name, caller.address, f"PUT {request.url.path}"))
        return now_suspended()

    @routes.delete("/suspensions/{stage}")
    def resume_stage(request: Request, stage: Stage, caller: Operator) -> Suspensions:
        """Resume a stage."""
        with site.database.write() as session:
            resume(session, [stage])
        site.record(events.operated(caller.name, caller.address, f"DELETE {request.url.path}"))
        return now_suspended()

    return routes
