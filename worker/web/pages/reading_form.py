"""POST /series/{uid}/readings: the form in which a reader confirms or corrects the label of a series."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from worker.db.engine import Session
from worker.db.readings import Reading, ReadMeanwhile, readings_of, series_to_read
from worker.web.dependencies import NO_SUCH_SERIES, Annotator, SeriesUid, Site
from worker.web.guard import posted
from worker.web.readings import ReadingEntry, possible_labels, record_reading
from worker.web.templating import render


@dataclass(frozen=True, slots=True)
class ReadingForm:
    """The readings of a series, and the form as it is filled in; `slices` counts from 1."""

    series_instance_uid: str
    readings: Sequence[Reading]
    labels: Mapping[str, str]
    after: int
    result: int | None
    label: str
    slices: str
    comment: str
    fault: str | None = None


def empty_form(session: Session, series_instance_uid: str, titles: Mapping[str, str]) -> ReadingForm | None:
    """The form before anything is entered; None where there is no such series.

    It proposes no label, so that the model's is not accepted without a look.
    """
    series = series_to_read(session, series_instance_uid)
    if series is None:
        return None
    readings = readings_of(session, series.series_id)
    return ReadingForm(
        series_instance_uid=series_instance_uid,
        readings=readings,
        labels=possible_labels(series, titles),
        after=readings[0].number if readings else 0,
        result=series.result_id,
        label="",
        slices=slices_as_text(readings[0].slices) if readings and readings[0].result_id == series.result_id else "",
        comment="",
    )


def reading_form(site: Site) -> APIRouter:
    """The route; it needs a token that may annotate."""
    routes = APIRouter(include_in_schema=False)

    @routes.post("/series/{series_instance_uid}/readings")
    def submit(
        request: Request,
        series_instance_uid: SeriesUid,
        caller: Annotator,
        fields: Annotated[dict[str, str], Depends(posted)],
    ) -> Response:
        by_htmx = "hx-request" in request.headers
        fault, status = None, 200
        try:
            record_reading(site, series_instance_uid, _entry(fields), caller)
            if not by_htmx:
                return RedirectResponse(f"/series/{series_instance_uid}#reading", 303)
        except ReadMeanwhile as error:
            fault = f"{error.detail}. Review the reading above; your entries are still in the form."
            status = 409
        except (HTTPException, ValueError) as error:
            if isinstance(error, HTTPException) and error.status_code != 422:
                raise
            fault = f"Not saved. {error.detail if isinstance(error, HTTPException) else fault_in_words(error)}"
            status = 422
        with site.database.read() as session:
            form = empty_form(session, series_instance_uid, site.class_titles())
        if form is None:
            raise HTTPException(404, NO_SUCH_SERIES)
        if fault is not None:
            label, slices, comment = (fields.get(name, "") for name in ("label", "slices", "comment"))
            form = replace(form, fault=fault, label=label, slices=slices, comment=comment)
        template = "reading.html" if by_htmx else "reading_page.html"
        return HTMLResponse(render(template, caller, reading=form), status)

    return routes


def _entry(fields: Mapping[str, str]) -> ReadingEntry:
    """Raises ValueError in words for a reader (pydantic's ValidationError is a ValueError)."""
    numbers = {name: fields.get(name) or None for name in ("after", "result")}
    return ReadingEntry.model_validate(
        {
            "label": fields.get("label", ""),
            "comment": fields.get("comment", ""),
            "slices": slices_from_text(fields.get("slices", "")),
            "after": numbers["after"] or 0,
            "result": numbers["result"],
        }
    )


def fault_in_words(error: ValueError) -> str:
    """What is wrong with a form (pydantic's ValidationError is a ValueError), for a reader."""
    faults = getattr(error, "errors", None)
    if faults is None:
        return str(error)
    return "; ".join(f"{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults())


def _runs(text: str) -> list[str]:
    """The runs of slices, without the spaces around their dashes; some type an en dash."""
    ends = text.replace("–", "-").split("-")  # noqa: RUF001
    return re.split(
        r"[,;\s]+", "-".join(end.strip() if place else end.rstrip() for place, end in enumerate(ends)).strip()
    )


def slices_from_text(text: str) -> list[int]:
    """`12-14, 18`, counted from 1 → the ordinals [11, 12, 13, 17]. Raises ValueError."""
    ordinals: list[int] = []
    for run in _runs(text):
        if not run:
            continue
        ends = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", run, re.ASCII)
        first = int(ends[1]) if ends else 0
        last = int(ends[2] or ends[1]) if ends else 0
        if not 1 <= first <= last:
            raise ValueError("slices: write them as 12-14, 18")
        ordinals += range(first - 1, last)
    return ordinals


def slices_as_text(ordinals: Sequence[int]) -> str:
    """[11, 12, 13, 17] → `12-14, 18`."""
    runs: list[list[int]] = []
    for ordinal in ordinals:
        if runs and runs[-1][1] == ordinal:
            runs[-1][1] = ordinal + 1
        else:
            runs.append([ordinal + 1, ordinal + 1])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)
