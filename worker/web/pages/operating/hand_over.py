"""POST /studies/{uid}/hand-over: send a study elsewhere, then delete it here; GET /hand-overs: what became of it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.responses import RedirectResponse

from worker.errors import WorkerError
from worker.logs import fault_fields, get_log
from worker.web.dependencies import Operator, Site, StudyUid
from worker.web.guard import Caller, posted
from worker.web.pages.layout import render_page

_AT_ONCE = 2
_REMEMBERED = 50


@dataclass(frozen=True, slots=True)
class Job:
    """A study that is handed over, since this process started."""

    number: int
    study_instance_uid: str
    to: str
    by: str
    started_at: datetime
    state: str = "running"
    sent: int = 0
    total: int = 0
    detail: str | None = None


class HandOvers:
    """The hand-overs of this process, each in a thread of its own."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._known: deque[Job] = deque(maxlen=_REMEMBERED)
        self._last = 0

    def newest(self) -> list[Job]:
        with self._lock:
            return list(reversed(self._known))

    def start(self, study_instance_uid: str, to: str, caller: Caller, *, with_reports: bool) -> bool:
        """Begin; False while as many run as may, or this study's does."""
        with self._lock:
            running = [job for job in self._known if job.state == "running"]
            if len(running) >= _AT_ONCE or any(job.study_instance_uid == study_instance_uid for job in running):
                return False
            self._last += 1
            job = Job(self._last, study_instance_uid, to, caller.name, self._site.clock())
            self._known.append(job)
        work = threading.Thread(target=self._run, args=(job, caller, with_reports), name="hand-over", daemon=True)
        work.start()
        return True

    def _change(self, number: int, **values: object) -> None:
        with self._lock:
            for place, job in enumerate(self._known):
                if job.number == number:
                    self._known[place] = replace(job, **values)  # type: ignore[arg-type]

    def _run(self, job: Job, caller: Caller, with_reports: bool) -> None:
        from worker.send.hand_over import HandOver

        site = self._site
        handing = HandOver(site.settings, site.database, site.clock, site.record, caller.name, caller.address)
        try:
            done = handing.run(
                job.study_instance_uid,
                job.to,
                with_reports=with_reports,
                steps=lambda sent, total: self._change(job.number, sent=sent, total=total),
            )
            if done is None:
                self._change(job.number, state="failed", detail="there is no such study")
            else:
                self._change(job.number, state="done", detail=f"{done.deleted.instances} images deleted here")
        except WorkerError as fault:
            self._change(job.number, state="failed", detail=fault.detail)
        except Exception as error:  # a thread's boundary
            get_log().error("study not handed over", **fault_fields(error))
            self._change(job.number, state="failed", detail="an internal fault; the log says where")


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
            raise HTTPException(503, "other studies are being handed over, or this one; try again later")
        return RedirectResponse("/hand-overs", 303)

    return routes
