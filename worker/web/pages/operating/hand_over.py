"""POST /studies/{uid}/hand-over: send a study elsewhere, then delete it here; GET /hand-overs: what became of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.responses import RedirectResponse

from worker.web.dependencies import Operator, Site, StudyUid
from worker.web.guard import posted
from worker.web.pages.layout import render_page
from worker.web.work.hand_overs import HandOvers


def hand_over_pages(site: Site, hand_overs: HandOvers) -> APIRouter:
    """The form's route and the list; both need a token that operates."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/hand-overs")
    def list_jobs(caller: Operator) -> Response:
        return render_page(site, "hand_overs.html", caller, jobs=hand_overs.newest())

    @routes.post("/studies/{study_instance_uid}/hand-over")
    def hand_over(
        study_instance_uid: StudyUid, caller: Operator, fields: Annotated[dict[str, str], Depends(posted)]
    ) -> Response:
        if "sure" not in fields:
            raise HTTPException(422, "tick the box to hand the study over")
        to = fields.get("to", "")
        if to not in site.settings.nodes:
            raise HTTPException(422, "there is no such [[peer]] or [[destination]] by C-STORE")
        if not hand_overs.start(study_instance_uid, to, caller, with_reports="reports" in fields):
            raise HTTPException(503, "other studies are being handed over, or this study; try again later")
        return RedirectResponse("/hand-overs", 303)

    return routes
