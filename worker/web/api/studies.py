"""GET /api/v1/studies: the answer for each study, with what every series of it said and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request

from worker.audit import events
from worker.db.views.studies import StudyAnswer, find_studies, find_study
from worker.storage.deletion import DeletedStudy, delete_study
from worker.web.dependencies import NO_SUCH_STUDY, Limit, Operator, Reader, Site, StudyUid, api_router
from worker.web.errors import CONFLICT, NOT_FOUND
from worker.web.filters import LARGEST_NUMBER


@dataclass(frozen=True, slots=True)
class StudiesPage:
    """Newest first; `older` is the address of the next page, null at the end."""

    studies: tuple[StudyAnswer, ...]
    older: str | None


def studies_api(site: Site) -> APIRouter:
    """The routes, for a token that reads; to delete needs a token that operates."""
    routes = api_router("studies")

    @routes.get("/studies")
    def list_studies(
        request: Request,
        caller: Reader,
        older_than: Annotated[int | None, Query(ge=0, le=LARGEST_NUMBER)] = None,
        limit: Limit = 100,
    ) -> StudiesPage:
        """Studies of which a series was received."""
        site.record(events.queried(caller.name, caller.address, request.url.path, {}))
        with site.database.read() as session:
            page = find_studies(session, older_than, limit)
        older = None
        if page.older_than is not None:
            query = urlencode({"older_than": page.older_than, "limit": limit})
            older = f"{request.url.path}?{query}"
        return StudiesPage(page.studies, older)

    @routes.get("/studies/{study_instance_uid}", responses=NOT_FOUND)
    def show_study(study_instance_uid: StudyUid, caller: Reader) -> StudyAnswer:
        """A study."""
        with site.database.read() as session:
            study = find_study(session, study_instance_uid)
        if study is None:
            raise HTTPException(404, NO_SUCH_STUDY)
        site.record(events.viewed(caller.name, caller.address, study.study_instance_uid))
        return study

    @routes.delete("/studies/{study_instance_uid}", responses=NOT_FOUND | CONFLICT)
    def remove_study(study_instance_uid: StudyUid, caller: Operator) -> DeletedStudy:
        """Delete a study with all that was made of it; what was sent stays where it is. 409 while it is worked on."""
        deleted = delete_study(
            site.database, site.settings, study_instance_uid, caller.name, caller.address, site.record
        )
        if deleted is None:
            raise HTTPException(404, NO_SUCH_STUDY)
        return deleted

    return routes
