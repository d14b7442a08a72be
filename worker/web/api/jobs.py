"""/api/v1/jobs: unfinished jobs, and retrying parked jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, HTTPException, Request

from worker.audit import events
from worker.db.jobs import job_exists, retry_parked_jobs
from worker.db.tables import JobState
from worker.db.views.queue import UnfinishedJob, unfinished_jobs
from worker.web.dependencies import After, Limit, Operator, Reader, Retried, RowNumber, Site, api_router
from worker.web.errors import CONFLICT, NOT_FOUND

_UnfinishedState = Literal[JobState.PENDING, JobState.RUNNING, JobState.PARKED]


@dataclass(frozen=True, slots=True)
class JobPage:
    """Oldest first; ask again with `after` set to the last number."""

    jobs: tuple[UnfinishedJob, ...]


def jobs_api(site: Site) -> APIRouter:
    """The routes; a retry needs a token that operates."""
    routes = api_router("jobs")

    @routes.get("/jobs")
    def list_jobs(
        caller: Reader, state: _UnfinishedState | None = None, after: After = 0, limit: Limit = 50
    ) -> JobPage:
        """Unfinished jobs: pending, running, or parked with the reason. A series shows its finished jobs."""
        with site.database.read() as session:
            return JobPage(tuple(unfinished_jobs(session, state, after, limit)))

    @routes.post("/jobs/retry")
    def retry_all_jobs(request: Request, caller: Operator) -> Retried:
        """Retry every parked job."""
        with site.database.write() as session:
            retried = retry_parked_jobs(session, [], site.clock())
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return Retried(tuple(sorted(retried)))

    @routes.post("/jobs/{number}/retry", responses=NOT_FOUND | CONFLICT)
    def retry_job(request: Request, number: RowNumber, caller: Operator) -> Retried:
        """Retry a parked job."""
        with site.database.write() as session:
            retried = retry_parked_jobs(session, [number], site.clock())
            is_known = job_exists(session, number)
        if not is_known:
            raise HTTPException(404, "there is no such job")
        if not retried:
            raise HTTPException(409, "the job is not parked")
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return Retried(tuple(retried))

    return routes
