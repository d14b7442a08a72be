"""GET /series/{uid}/tags: the header of an image of a series, for whoever reads."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response

from worker.audit import events
from worker.db.operating.images import stored_image
from worker.dicom.header import read_stored_header
from worker.dicom.text.tag_lines import MOST_LINES, tag_lines
from worker.web.dependencies import NO_SUCH_SERIES, Reader, SeriesUid, Site
from worker.web.pages.layout import render_page

_MOST_IMAGES = 1_000_000


def tags_page(site: Site) -> APIRouter:
    """The page; not where the database has pseudonyms, as the file names the patient."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/series/{series_instance_uid}/tags")
    def tags(
        series_instance_uid: SeriesUid, caller: Reader, image: Annotated[int, Query(ge=1, le=_MOST_IMAGES)] = 1
    ) -> Response:
        if site.database.pseudonym is not None:
            raise HTTPException(403, "with [privacy] pseudonymise headers are not shown: they name the patient")
        with site.database.read() as session:
            stored = stored_image(session, series_instance_uid, image)
        if stored is None:
            raise HTTPException(404, NO_SUCH_SERIES if image == 1 else "the series has no such image")
        if stored.path is None:
            raise HTTPException(410, "the image was deleted by the retention policy")
        lines = tag_lines(read_stored_header(site.data_dir / stored.path))
        site.record(events.viewed(caller.name, caller.address, stored.study_instance_uid))
        return render_page(
            site, "tags.html", caller, series_instance_uid=series_instance_uid, stored=stored, image=image,
            lines=lines, most=MOST_LINES,
        )  # fmt: skip

    return routes
