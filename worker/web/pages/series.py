"""GET /series/{uid}: a series with the answer for its study, its images, result, readings, slices and deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from worker.audit import events
from worker.db.views.conflicts import versions_of_series
from worker.db.views.search import Search, find_series
from worker.db.views.series_detail import SeriesDetail, find_series_detail
from worker.db.views.studies import find_study
from worker.results import ModelIdentity
from worker.web import charts, ohif
from worker.web.dependencies import (
    NO_SUCH_SERIES,
    Operator,
    Reader,
    SeriesUid,
    Site,
    reconsider_refused_series,
)
from worker.web.pages.layout import render_page
from worker.web.pages.reading_form import empty_form
from worker.web.templating import styles


def series_page(site: Site) -> APIRouter:
    """The page, for a token that reads, and an operator's button.

    `pages.images` serves its images and `pages.reading_form` its form.
    """
    routes = APIRouter(include_in_schema=False)

    @routes.get("/series/{series_instance_uid}")
    def series(series_instance_uid: SeriesUid, caller: Reader) -> Response:
        with site.database.read() as session:
            matches = find_series(session, Search(series_instance_uid=series_instance_uid))
            detail = find_series_detail(session, series_instance_uid)
            versions = versions_of_series(session, series_instance_uid)
            reading = empty_form(session, series_instance_uid, site.class_titles())
            study = find_study(session, matches[0].study_instance_uid) if matches else None
        if not matches or detail is None:
            raise HTTPException(404, NO_SUCH_SERIES)
        [answer] = matches
        site.record(events.viewed(caller.name, caller.address, answer.study_instance_uid))
        bundle = site.bundle(answer.model_sha256)
        names = list(bundle.titles) if bundle else list(answer.probabilities)
        colours = styles(names, site.no_lesion_labels())
        is_lesion = site.is_lesion(answer.label, answer.model_sha256)
        key_slices = _key_slices(detail)
        return render_page(
            site,
            "series.html",
            caller,
            series=answer,
            study=study if study is not None and len(study.series) > 1 else None,
            detail=detail,
            versions=versions,
            reading=reading,
            names=names,
            titles=site.class_titles(),
            styles=colours,
            lines=_probability_lines(detail, colours),
            key_slices=key_slices,
            no_lesion=bundle is not None and answer.label is not None and not is_lesion,
            shown=_first_shown(detail, key_slices, bundle.identity if bundle else None, answer.label),
            stored=any(slice_.file for slice_ in detail.slices),
            ohif=ohif.is_installed(site.data_dir),
            maps=[
                ordinal for ordinal, slice_ in enumerate(detail.slices) if is_lesion and slice_.activation is not None
            ],
        )

    @routes.post("/series/{series_instance_uid}/reconsider")
    def reconsider(request: Request, series_instance_uid: SeriesUid, caller: Operator) -> Response:
        reconsider_refused_series(site, series_instance_uid, caller, request.url.path)
        return RedirectResponse(f"/series/{series_instance_uid}", 303)

    return routes


def _key_slices(detail: SeriesDetail) -> list[int]:
    return [ordinal for ordinal, slice_ in enumerate(detail.slices) if slice_.deciding]


def _first_shown(
    detail: SeriesDetail, key_slices: Sequence[int], model: ModelIdentity | None, label: str | None
) -> int:
    """The slice of the picture that was sent: the key slice that told most; else the middle slice."""
    if model is None or not key_slices or label not in [item.name for item in model.labels]:
        return len(detail.slices) // 2
    shown = model.undetermined or model.class_named(label)  # such a model draws the slice most like a lesion
    return max(key_slices, key=lambda ordinal: model.probability_of(shown, detail.slices[ordinal].probabilities))


def _probability_lines(detail: SeriesDetail, colours: Mapping[str, str]) -> list[charts.Line]:
    """A line per class, by its colour, over the slices; none where no model read them."""
    if not detail.slices or len(detail.slices[0].probabilities) != len(colours):
        return []
    values = [[slice_.probabilities[index] for slice_ in detail.slices] for index in range(len(colours))]
    return charts.lines(list(colours), list(colours.values()), values, 1.0)
