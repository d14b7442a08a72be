"""GET /deliveries: what is on its way or arrived, by destination and study; sent now, again or elsewhere."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from worker.audit import events
from worker.db.deliveries import Chosen, resend, retry_failed_deliveries
from worker.db.tables import DeliveryState
from worker.db.views.deliveries import UNFINISHED, DeliverySearch, count_by_destination, find_deliveries
from worker.web.dependencies import Operator, Reader, RowNumber, Site
from worker.web.destinations import describe_destinations, require_destination
from worker.web.filters import LARGEST_NUMBER, Text, Uid
from worker.web.guard import Caller, posted
from worker.web.pages.layout import render_page

_A_PAGE = 50
_CHOSEN = re.compile(r"delivery-([1-9]\d{0,15})", re.ASCII)
_Destination = Annotated[str, Field(max_length=64)]


class _Parameters(BaseModel):
    """What is listed; `done` is the number of deliveries that the last button concerned."""

    model_config = ConfigDict(extra="forbid")

    destination: _Destination | None = None
    state: Literal["unfinished", "all"] | DeliveryState = "unfinished"
    patient_id: Text | None = None
    study_instance_uid: Uid | None = None
    before: int | None = Field(None, ge=1, le=LARGEST_NUMBER)
    done: int | None = Field(None, ge=0, le=LARGEST_NUMBER)

    def search(self) -> DeliverySearch:
        states = {"unfinished": UNFINISHED, "all": tuple(DeliveryState)}.get(self.state, (self.state,))
        return DeliverySearch(
            self.destination or None, states, self.patient_id or None, self.study_instance_uid or None,
            before=self.before, newest_first=True, limit=_A_PAGE,
        )  # fmt: skip

    def query(self, **others: object) -> str:
        """The same list, or another: as a query string."""
        kept = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"done", "before"})
        return urlencode({key: value for key, value in (kept | others).items() if value not in (None, "")})


_Listed = Annotated[_Parameters, Query()]
_Fields = Annotated[dict[str, str], Depends(posted)]


def deliveries_page(site: Site) -> APIRouter:
    """The page; its buttons need a token that operates."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/deliveries")
    def deliveries(request: Request, parameters: _Listed, caller: Reader) -> Response:
        with site.database.read() as session:
            found = find_deliveries(session, parameters.search())
            counts = {count.destination: count for count in count_by_destination(session)}
        criteria = parameters.model_dump(mode="json", exclude_none=True, exclude={"done"})
        site.record(events.queried(caller.name, caller.address, request.url.path, criteria))
        by_destination = sorted(found, key=lambda row: (row.destination, -row.number))
        groups = {name: list(rows) for name, rows in groupby(by_destination, key=lambda row: row.destination)}
        return render_page(
            site, "deliveries.html", caller,
            groups=groups, counts=counts, parameters=parameters, query=parameters.query(),
            destinations=[destination.name for destination in describe_destinations(site)],
            states=["unfinished", "all", *(state.value for state in DeliveryState)],
            older=parameters.query(before=found[-1].number) if len(found) == _A_PAGE else None, now=site.clock(),
        )  # fmt: skip

    def back(parameters: _Parameters, caller: Caller, what: str, done: int) -> Response:
        site.record(events.operated(caller.name, caller.address, what))
        return RedirectResponse(f"/deliveries?{parameters.query(done=done)}", 303)

    @routes.post("/deliveries/retry")
    def retry_destination(parameters: _Listed, fields: _Fields, caller: Operator) -> Response:
        """Send now what failed and what waits, to a destination."""
        name = require_destination(site, fields.get("destination", "")).name
        with site.database.write() as session:
            retried = retry_failed_deliveries(session, site.clock(), (), name, waiting=True)
        return back(parameters, caller, f"/deliveries/retry to {name}", len(retried))

    @routes.post("/deliveries/{number}/retry")
    def retry_delivery(number: RowNumber, parameters: _Listed, caller: Operator) -> Response:
        with site.database.write() as session:
            retried = retry_failed_deliveries(session, site.clock(), [number])
        return back(parameters, caller, f"/deliveries/{number}/retry", len(retried))

    @routes.post("/deliveries/resend")
    def send_again(parameters: _Listed, fields: _Fields, caller: Operator) -> Response:
        """Send the chosen deliveries, or all that was made of the study that is listed, to a destination."""
        destination = require_destination(site, fields.get("to", ""))
        numbers = tuple(int(match[1]) for key in fields if (match := _CHOSEN.fullmatch(key)))
        study = parameters.study_instance_uid if "study" in fields else None
        if bool(numbers) == (study is not None):
            raise HTTPException(422, "choose deliveries to send again")
        chosen = Chosen(numbers, study)
        sent = resend(site.database, chosen, destination.name, destination.accepted_kinds, site.clock())
        what = f"/deliveries/resend to {destination.name}: {study or ' '.join(map(str, numbers))}"
        return back(parameters, caller, what, len(sent.again) + len(sent.added))

    return routes
