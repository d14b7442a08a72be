"""What readers say that a series shows: the form on its page, and /api/v1/series/{uid}/readings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker.audit import events
from worker.db import readings as store_readings
from worker.db.engine import Session
from worker.db.readings import (
    LARGEST_COMMENT,
    OTHER_LABELS,
    NewReading,
    Reading,
    ReadMeanwhile,
    ReadState,
    SeriesToRead,
    readings_of,
    series_to_read,
    slices_of_result,
)
from worker.web.dependencies import API_PREFIX, BEARER, Annotator, Reader, SeriesUid, Site
from worker.web.errors import CONFLICT, DOCUMENTED, NOT_FOUND
from worker.web.filters import LARGEST_NUMBER, Text
from worker.web.guard import Caller, posted
from worker.web.templating import render

_LARGEST_SERIES = 4000
_NO_SUCH_SERIES = "no such series was received"


# Lines, but no other control characters.
_COMMENT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"
Comment = Annotated[str, Field(max_length=LARGEST_COMMENT, pattern=_COMMENT_PATTERN), AfterValidator(str.strip)]
Ordinal = Annotated[int, Field(ge=0, lt=_LARGEST_SERIES)]


class Said(BaseModel):
    """What a reader says. Take `after` and `result` from the list of readings that you looked at."""

    model_config = ConfigDict(extra="forbid")

    label: Text = Field(description="One of the `labels` of the list.")
    after: int = Field(ge=0, le=LARGEST_NUMBER, description="The latest reading that you saw; 0 for none.")
    result: int | None = Field(
        None, ge=1, le=LARGEST_NUMBER, description="The result that you looked at; none where there was none."
    )
    slices: list[Ordinal] = Field([], max_length=_LARGEST_SERIES, description="Ordinals of slices that show it.")
    comment: Comment = ""


@dataclass(frozen=True, slots=True)
class ReadingAnswer:
    """One reading. `state`: confirmed or corrected, of the `answer` of the `model` that the reader looked at."""

    number: int
    label: str
    state: ReadState
    comment: str
    slices: tuple[int, ...]
    reader: str
    read_at: datetime
    result: int | None
    answer: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class ReadingList:
    """The readings of a series, the latest first. A new one is sent with `after` and `result` as they are here."""

    readings: tuple[ReadingAnswer, ...]
    after: int
    result: int | None
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReadingForm:
    """The part of the series page: what was read, and the form as it is filled in; `slices` counts from 1."""

    series_instance_uid: str
    readings: Sequence[Reading]
    labels: Mapping[str, str]
    after: int
    result: int | None
    label: str
    slices: str
    comment: str
    fault: str | None = None


def form_of(session: Session, series_instance_uid: str, titles: Mapping[str, str]) -> ReadingForm | None:
    """The form before anything is typed; it proposes no label, lest the model's be taken unseen. None: no series."""
    series = series_to_read(session, series_instance_uid)
    if series is None:
        return None
    readings = readings_of(session, series.series_id)
    return ReadingForm(
        series_instance_uid=series_instance_uid,
        readings=readings,
        labels=_labels(series, titles),
        after=readings[0].number if readings else 0,
        result=series.result_id,
        label="",
        slices=_as_text(readings[0].slices) if readings and readings[0].result_id == series.result_id else "",
        comment="",
    )


def reading_routes(site: Site) -> APIRouter:
    """The routes of the API and of the form; writing needs a token that may annotate."""
    api = APIRouter(prefix=API_PREFIX, responses=DOCUMENTED, dependencies=BEARER)
    _add_api(api, site)
    routes = APIRouter()
    routes.include_router(api)
    _add_form(routes, site)
    return routes


def _add(site: Site, series_instance_uid: str, said: Said, caller: Caller) -> ReadingAnswer:
    """Raises HTTPException 404 and 422, and ReadMeanwhile."""
    with site.database.write() as session:
        series = series_to_read(session, series_instance_uid)
        if series is None:
            raise HTTPException(404, _NO_SUCH_SERIES)
        if said.result is None and series.result_id is not None:
            raise ReadMeanwhile(
                "answered-meanwhile", "the series was answered since you looked at it; nothing was written"
            )
        _check(session, series, said, site.class_titles())
        slices = tuple(sorted({*said.slices}))
        new = NewReading(said.label, caller.name, said.comment, slices, said.result, said.after)
        row = store_readings.add_reading(session, series.series_id, new, site.clock())
        [added] = [one for one in readings_of(session, series.series_id) if one.number == row.number]
    site.record(events.annotated(caller.name, caller.address, series.study_instance_uid))
    return _answer(added)


def _check(session: Session, series: SeriesToRead, said: Said, titles: Mapping[str, str]) -> None:
    """Raises HTTPException 422 for what cannot be said of this series."""
    labels = _labels(series, titles)
    if said.label not in labels:
        raise HTTPException(422, f"label: one of {', '.join(labels)}")
    number = slices_of_result(session, series.series_id, said.result) if said.result is not None else 0
    if number is None:
        raise HTTPException(422, "result: the series has no such result")
    if said.slices and max(said.slices) >= number:
        raise HTTPException(422, f"slices: the result has {number}")


def _labels(series: SeriesToRead, titles: Mapping[str, str]) -> dict[str, str]:
    """What may be said, with titles: the classes of the models of this host and of the answer, and the other words."""
    return {name: titles.get(name, name) for name in [*titles, *series.classes]} | OTHER_LABELS


def _answer(one: Reading) -> ReadingAnswer:
    return ReadingAnswer(
        number=one.number,
        label=one.label,
        state=one.state,
        comment=one.comment,
        slices=one.slices,
        reader=one.reader,
        read_at=one.created_at,
        result=one.result_id,
        answer=one.answer,
        model=one.model,
    )


# --- the API ---------------------------------------------------------------------------------------------------


def _add_api(routes: APIRouter, site: Site) -> None:
    @routes.get("/series/{series_instance_uid}/readings", tags=["series"], responses=NOT_FOUND)
    def list_readings(series_instance_uid: SeriesUid, caller: Reader) -> ReadingList:
        """Who said what of a series, and what a new reading needs."""
        with site.database.read() as session:
            series = series_to_read(session, series_instance_uid)
            if series is None:
                raise HTTPException(404, _NO_SUCH_SERIES)
            readings = readings_of(session, series.series_id)
        site.record(events.viewed(caller.name, caller.address, series.study_instance_uid))
        return ReadingList(
            readings=tuple(_answer(one) for one in readings),
            after=readings[0].number if readings else 0,
            result=series.result_id,
            labels=_labels(series, site.class_titles()),
        )

    @routes.post(
        "/series/{series_instance_uid}/readings", tags=["series"], status_code=201, responses=NOT_FOUND | CONFLICT
    )
    def add_reading(series_instance_uid: SeriesUid, said: Said, caller: Annotator) -> ReadingAnswer:
        """Confirm or correct the label of a series; 409 where it was read or answered since you looked."""
        try:
            return _add(site, series_instance_uid, said, caller)
        except ReadMeanwhile as fault:
            raise HTTPException(409, fault.detail) from None


# --- the form --------------------------------------------------------------------------------------------------


def _add_form(routes: APIRouter, site: Site) -> None:
    @routes.post("/series/{series_instance_uid}/readings", include_in_schema=False)
    def read(
        request: Request,
        series_instance_uid: SeriesUid,
        caller: Annotator,
        fields: Annotated[dict[str, str], Depends(posted)],
    ) -> Response:
        by_htmx = "hx-request" in request.headers
        fault, status = None, 200
        try:
            said = _from_form(fields)
            _add(site, series_instance_uid, said, caller)
            if not by_htmx:
                return RedirectResponse(f"/series/{series_instance_uid}#reading", 303)
        except ReadMeanwhile as error:
            fault = f"{error.detail}. Look at what was said; what you chose is still in the form."
            status = 409
        except (HTTPException, ValueError) as error:
            if isinstance(error, HTTPException) and error.status_code != 422:
                raise
            fault = f"Not saved. {error.detail if isinstance(error, HTTPException) else _plain_fault(error)}"
            status = 422
        with site.database.read() as session:
            form = form_of(session, series_instance_uid, site.class_titles())
        if form is None:
            raise HTTPException(404, _NO_SUCH_SERIES)
        if fault is not None:
            label, slices, comment = (fields.get(name, "") for name in ("label", "slices", "comment"))
            form = replace(form, fault=fault, label=label, slices=slices, comment=comment)
        template = "reading.html" if by_htmx else "reading_page.html"
        return HTMLResponse(render(template, caller, reading=form), status)


def _from_form(fields: Mapping[str, str]) -> Said:
    """Raises ValueError in words for a reader (pydantic's ValidationError is one)."""
    numbers = {name: fields.get(name) or None for name in ("after", "result")}
    return Said.model_validate(
        {
            "label": fields.get("label", ""),
            "comment": fields.get("comment", ""),
            "slices": _from_text(fields.get("slices", "")),
            "after": numbers["after"] or 0,
            "result": numbers["result"],
        }
    )


def _plain_fault(error: ValueError) -> str:
    faults = getattr(error, "errors", None)
    if faults is None:
        return str(error)
    return "; ".join(f"{one['loc'][0]}: {one['msg'].removeprefix('Value error, ')}" for one in faults())


def _from_text(text: str) -> list[int]:
    """`12-14, 18` as a person counts slices → [11, 12, 13, 17]. Raises ValueError."""
    found: list[int] = []
    for part in re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip())):  # noqa: RUF001 - typed so by some
        if not part:
            continue
        ends = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part, re.ASCII)
        first = int(ends[1]) if ends else 0
        last = int(ends[2] or ends[1]) if ends else 0
        if not 1 <= first <= last:
            raise ValueError("slices: write them as 12-14, 18")
        found += range(first - 1, last)
    return found


def _as_text(ordinals: Sequence[int]) -> str:
    """[11, 12, 13, 17] → `12-14, 18`."""
    runs: list[list[int]] = []
    for one in ordinals:
        if runs and runs[-1][1] == one:
            runs[-1][1] = one + 1
        else:
            runs.append([one + 1, one + 1])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)
