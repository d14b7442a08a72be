"""POST /studies/{uid}/delete: an operator deletes a study, after a box was ticked."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.responses import RedirectResponse

from worker.storage.deletion import delete_study
from worker.web.dependencies import NO_SUCH_STUDY, Operator, Site, StudyUid
from worker.web.guard import posted


def deletion_form(site: Site) -> APIRouter:
    """The route; it needs a token that operates."""
    routes = APIRouter(include_in_schema=False)

    @routes.post("/studies/{study_instance_uid}/delete")
    def delete(
        study_instance_uid: StudyUid, caller: Operator, fields: Annotated[dict[str, str], Depends(posted)]
    ) -> Response:
        if "sure" not in fields:
            raise HTTPException(422, "tick the box to delete the study")
        deleted = delete_study(
            site.database, site.settings, study_instance_uid, caller.name, caller.address, site.record
        )
        if deleted is None:
            raise HTTPException(404, NO_SUCH_STUDY)
        return RedirectResponse("/", 303)

    return routes
