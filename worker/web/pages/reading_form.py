"""POST /series/{uid}/readings: the form in which a reader confirms or corrects the label of a series, or undoes it.

The form of a study (`pages.study`) is made of the same parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from worker.db.engine import Session
from worker.db.readings import NOT_ASSESSABLE, Reading, ReadMeanwhile, readings_of, series_to_read
from worker.web.dependencies import NO_SUCH_SERIES, Annotator, SeriesUid, Site
from worker.web.guard import Caller, posted
from worker.web.readings import (
    ReadingEntry,
    ReadingNumber,
    possible_labels,
    record_reading,
    withdraw_series_reading,
)
from worker.web.templating import render

SLICES = "slices"


@dataclass(frozen=True, slots=True)
class ReadingForm:
    """The readings of a series or a study, latest first, and the form as it is filled in.

    `agree` is the label that agrees with the answer, None without an answer. `slices` has the text (counted from 1) of
    each field for slices by its name; the viewer fills in the field `slices_name`, which is empty where no answer has
    slices to mark. `query` belongs to the addresses.
    """

    of: Literal["series", "study"]
    address: str
    readings: Sequence[Reading]
    labels: Mapping[str, str]
    after: int
    result: int | None
    agree: str | None
    slices_name: str
    slices: Mapping[str, str]
    query: str = ""
    comment: str = ""
    fault: str | None = None

    @property
    def standing(self) -> Reading | None:
        """The latest reading that was not withdrawn."""
        return next((reading for reading in self.readings if reading.withdrawn_at is None), None)

    @property
    def others(self) -> list[Reading]:
        """The readings that were superseded or withdrawn."""
        return [reading for reading in self.readings if reading is not self.standing]

    def refused(self, fault: str, fields: Mapping[str, str] | None) -> ReadingForm:
        """The form as it was sent, if it was this form, and why nothing was saved."""
        if fields is None:
            return replace(self, fault=fault)
        slices = {name: text for name, text in fields.items() if name.partition("-")[0] == "slices"}
        return replace(self, fault=fault, comment=fields.get("comment", ""), slices=slices)


def empty_form(session: Session, series_instance_uid: str, titles: Mapping[str, str]) -> ReadingForm | None:
    """The form of a series before anything is entered; None where there is no such series."""
    series = series_to_read(session, series_instance_uid)
    if series is None:
        return None
    readings = readings_of(session, series.series_id)
    form = ReadingForm(
        of="series",
        address=f"/series/{series_instance_uid}",
        readings=readings,
        labels=possible_labels(series, titles),
        after=readings[0].number if readings else 0,
        result=series.result_id,
        agree=(series.label or NOT_ASSESSABLE) if series.result_id is not None else None,
        slices_name=SLICES if series.slices else "",
        slices={},
    )
    standing = form.standing
    if standing is None or standing.result_id != series.result_id:
        return form
    return replace(form, slices={SLICES: slices_as_text(standing.slices)})


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
        review = ". Review the reading above; your entries are still in the form."
        fault, status = fault_of(lambda: record_reading(site, series_instance_uid, _entry(fields), caller), review)
        return answer(request, series_instance_uid, caller, fields, fault, status)

    @routes.post("/series/{series_instance_uid}/readings/{number}/withdraw")
    def withdraw(
        request: Request, series_instance_uid: SeriesUid, number: ReadingNumber, caller: Annotator
    ) -> Response:
        fault, status = fault_of(lambda: withdraw_series_reading(site, series_instance_uid, number, caller))
        return answer(request, series_instance_uid, caller, None, fault, status)

    def answer(
        request: Request,
        series_instance_uid: str,
        caller: Caller,
        fields: Mapping[str, str] | None = None,
        fault: str | None = None,
        status: int = 200,
    ) -> Response:
        """The form: as a part for htmx, else by a redirection or, with a fault, on a page."""
        by_htmx = "hx-request" in request.headers
        if fault is None and not by_htmx:
            return RedirectResponse(f"/series/{series_instance_uid}#reading", 303)
        with site.database.read() as session:
            form = empty_form(session, series_instance_uid, site.class_titles())
        if form is None:
            raise HTTPException(404, NO_SUCH_SERIES)
        if fault is not None:
            form = form.refused(fault, fields)
        template = "finding.html" if by_htmx else "reading_page.html"
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


def fault_of(save: Callable[[], object], review: str = "") -> tuple[str | None, int]:
    """Save or withdraw a finding; why nothing was written, for the form, None where it was, and the HTTP status.

    `review` is added where the readings have changed since the reader saw them. Raises HTTPException other than 422.
    """
    try:
        save()
    except ReadMeanwhile as error:
        return f"{error.detail}{review}", 409
    except HTTPException as error:
        if error.status_code != 422:
            raise
        return f"Not saved. {error.detail}", 422
    except ValueError as error:
        return f"Not saved. {fault_in_words(error)}", 422
    return None, 200


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
