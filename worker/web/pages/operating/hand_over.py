"""POST /studies/{uid}/hand-over: send a study elsewhere, then delete it here; GET /hand-overs: what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.responses import RedirectResponse

from worker.web.dependencies import Operator, Site, StudyUid
from worker.web.guard import Caller, posted
from worker.web.pages.layout import render_page
from worker.web.pages.operating.background import Background, Work

_AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Work):
    """A study that is handed over."""

    study_instance_uid: str
    to: str
    sent: int = 0
    total: int = 0


class HandOvers:
    """The hand-overs of this process."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._jobs = Background[Job]("hand-over", _AT_ONCE)
        self.newest = self._jobs.newest

    def start(self, study_instance_uid: str, to: str, caller: Caller, *, with_reports: bool) -> bool:
        """Begin; False while as many run as may, or this study's does."""

        def run(job: Job) -> dict[str, Any]:
            return self._run(job, caller, with_reports)

        job = Job(study_instance_uid=study_instance_uid, to=to, by=caller.name, started_at=self._site.clock())
        return self._jobs.start(job, run, lambda running: running.study_instance_uid == study_instance_uid)

    def _run(self, job: Job, caller: Caller, with_reports: bool) -> dict[str, Any]:
        from worker.send.hand_over import HandOver

        site = self._site
        handing = HandOver(site.settings, site.database, site.clock, site.record, caller.name, caller.address)
        done = handing.run(
            job.study_instance_uid,
            job.to,
            with_reports=with_reports,
            steps=lambda sent, total: self._jobs.change(job.number, sent=sent, total=total),
        )
        if done is None:
            return {"state": "failed", "detail": "there is no such study"}
        return {"state": "done", "detail": f"{done.deleted.instances} images deleted here"}


def hand_over_pages(site: Site) -> APIRouter:
    """The form's route and the list; both need a token that operates."""
    routes = APIRouter(include_in_schema=False)
    jobs = HandOvers(site)

    @routes.get("/hand-overs")
    def list_jobs(caller: Operator) -> Response:
        return render_page(site, "hand_overs.html", caller, jobs=jobs.newest())

    @routes.post("/studies/{study_instance_uid}/hand-over")
    def hand_over(
        study_instance_uid: StudyUid, caller: Operator, fields: Annotated[dict[str, str], Depends(posted)]
    ) -> Response:
        if "sure" not in fields:
            raise HTTPException(422, "tick the box to hand the study over")
        to = fields.get("to", "")
        if to not in site.settings.nodes:
            raise HTTPException(422, "there is no such [[peer]] or [[destination]] by C-STORE")
        if not jobs.start(study_instance_uid, to, caller, with_reports="reports" in fields):
            raise HTTPException(503, "other studies are being handed over, or this study; try again later")
        return RedirectResponse("/hand-overs", 303)

    return routes
