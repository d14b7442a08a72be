"""GET /queue: unfinished jobs, deliveries and conflicts; the buttons that retry or decide them, or suspend a stage."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from worker.audit import events
from worker.db.deliveries import retry_failed_deliveries
from worker.db.instances import file_fault_counts
from worker.db.jobs import retry_parked_jobs
from worker.db.operating.suspensions import resume, suspend
from worker.db.tables import Stage
from worker.db.views.conflicts import list_conflicts, list_partly_corrected
from worker.db.views.queue import unfinished_deliveries, unfinished_jobs
from worker.storage.versions.conflicts import Conflicts, NoSuchConflict, UnusableConflict
from worker.web.dependencies import Operator, Reader, RowNumber, Site
from worker.web.guard import Caller
from worker.web.pages.layout import render_page

_QUEUE_LENGTH = 200


def queue_page(site: Site) -> APIRouter:
    """The page; its buttons need a token that operates."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/queue")
    def queue(caller: Reader, tried: int | None = None, decided: int | None = None) -> Response:
        with site.database.read() as session:
            jobs = unfinished_jobs(session, limit=_QUEUE_LENGTH)
            deliveries = unfinished_deliveries(session, limit=_QUEUE_LENGTH)
            faults = file_fault_counts(session)
            conflicts = list_conflicts(session, limit=_QUEUE_LENGTH)
            halves = list_partly_corrected(session, _QUEUE_LENGTH)
        return render_page(
            site,
            "queue.html",
            caller,
            jobs=jobs,
            deliveries=deliveries,
            conflicts=conflicts,
            halves=halves,
            faults={fault.value: number for fault, number in faults.items() if number},
            tried=tried,
            decided=decided,
            length=_QUEUE_LENGTH,
            now=site.clock(),
        )

    def back_to_queue(request: Request, caller: Caller, retried: list[int]) -> Response:
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return RedirectResponse(f"/queue?tried={len(retried)}", 303)

    @routes.post("/queue/jobs/retry")
    def retry_all_jobs(request: Request, caller: Operator) -> Response:
        with site.database.write() as session:
            return back_to_queue(request, caller, retry_parked_jobs(session, [], site.clock()))

    @routes.post("/queue/jobs/{number}/retry")
    def retry_job(request: Request, number: RowNumber, caller: Operator) -> Response:
        with site.database.write() as session:
            return back_to_queue(request, caller, retry_parked_jobs(session, [number], site.clock()))

    @routes.post("/queue/deliveries/retry")
    def retry_all_deliveries(request: Request, caller: Operator) -> Response:
        with site.database.write() as session:
            return back_to_queue(request, caller, retry_failed_deliveries(session, site.clock()))

    @routes.post("/queue/deliveries/{number}/retry")
    def retry_delivery(request: Request, number: RowNumber, caller: Operator) -> Response:
        with site.database.write() as session:
            return back_to_queue(request, caller, retry_failed_deliveries(session, site.clock(), [number]))

    @routes.post("/queue/suspend/{stage}")
    def suspend_stage(request: Request, stage: Stage, caller: Operator) -> Response:
        with site.database.write() as session:
            suspend(session, [stage], caller.name, site.clock())
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return RedirectResponse("/queue", 303)

    @routes.post("/queue/resume/{stage}")
    def resume_stage(request: Request, stage: Stage, caller: Operator) -> Response:
        with site.database.write() as session:
            resume(session, [stage])
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return RedirectResponse("/queue", 303)

    decisions = Conflicts(site.database, site.settings, site.record)

    @routes.post("/queue/conflicts/{number}/accept")
    def accept_conflict(number: RowNumber, caller: Operator) -> Response:
        try:
            decisions.accept(number, caller.name, caller.address, site.clock())
        except NoSuchConflict:
            return RedirectResponse("/queue?decided=0", 303)
        except UnusableConflict as fault:
            raise HTTPException(409, fault.detail) from None
        return RedirectResponse("/queue?decided=1", 303)

    @routes.post("/queue/conflicts/{number}/reject")
    def reject_conflict(number: RowNumber, caller: Operator) -> Response:
        try:
            decisions.reject(number, caller.name, caller.address, site.clock())
        except NoSuchConflict:
            return RedirectResponse("/queue?decided=0", 303)
        return RedirectResponse("/queue?decided=1", 303)

    return routes
