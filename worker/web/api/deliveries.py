"""/api/v1/deliveries: what is on its way or has arrived; sent now, sent again, or sent to another destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker.audit import events
from worker.db.deliveries import Chosen, delivery_exists, resend, retry_failed_deliveries
from worker.db.tables import DeliveryState
from worker.db.views.deliveries import (
    DeliveryAnswer,
    DeliverySearch,
    DestinationCounts,
    count_by_destination,
    find_deliveries,
)
from worker.web.dependencies import After, Limit, Operator, Reader, Retried, RowNumber, Site, api_router
from worker.web.destinations import require_destination
from worker.web.errors import CONFLICT, NOT_FOUND
from worker.web.filters import LARGEST_NUMBER, UID_PATTERN

_Uid = Annotated[str, Query(pattern=UID_PATTERN)]
_Name = Annotated[str, Query(max_length=64)]


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Oldest first; ask again with `after` set to the last number. `destinations`: where something has not arrived."""

    deliveries: tuple[DeliveryAnswer, ...]
    destinations: tuple[DestinationCounts, ...]


def _named(keyword: str, **schema: object) -> dict[str, object]:
    return {"required": [keyword], "properties": {keyword: schema}}


_WHAT_IS_SENT: dict[str, Any] = {
    "oneOf": [
        _named("deliveries", type="array", minItems=1),
        _named("study_instance_uid", type="string"),
        _named("series_instance_uid", type="string"),
    ]
}


class ToResend(BaseModel):
    """What is sent to a destination of the configuration: deliveries, or what was made of a study or a series."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_WHAT_IS_SENT)

    destination: str = Field(max_length=64)
    deliveries: list[Annotated[int, Field(ge=1, le=LARGEST_NUMBER)]] = Field(default=[], max_length=500)
    study_instance_uid: str | None = Field(default=None, pattern=UID_PATTERN)
    series_instance_uid: str | None = Field(default=None, pattern=UID_PATTERN)

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        named = [bool(self.deliveries), self.study_instance_uid is not None, self.series_instance_uid is not None]
        if named.count(True) != 1:
            raise ValueError("name deliveries, study_instance_uid or series_instance_uid, and nothing else of these")
        return self


@dataclass(frozen=True, slots=True)
class Resent:
    """The numbers of the deliveries that are sent again, and of those that are new."""

    again: tuple[int, ...]
    added: tuple[int, ...]


def deliveries_api(site: Site) -> APIRouter:
    """The routes; to retry or to send again needs a token that operates."""
    routes = api_router("deliveries")

    @routes.get("/deliveries")
    def list_deliveries(
        request: Request,
        caller: Reader,
        state: DeliveryState | None = None,
        destination: _Name | None = None,
        study_instance_uid: _Uid | None = None,
        series_instance_uid: _Uid | None = None,
        after: After = 0,
        limit: Limit = 50,
    ) -> DeliveryPage:
        """Deliveries with patient and study; without `state` those that have not arrived, with the reason."""
        search = DeliverySearch(
            destination,
            (state,) if state else (),
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
            after=after,
            limit=limit,
        )
        with site.database.read() as session:
            page = DeliveryPage(tuple(find_deliveries(session, search)), tuple(count_by_destination(session)))
        given = {"state": state, "destination": destination, "study": study_instance_uid, "series": series_instance_uid}
        criteria = {key: str(value) for key, value in given.items() if value is not None}
        site.record(events.queried(caller.name, caller.address, request.url.path, criteria))
        return page

    @routes.post("/deliveries/retry")
    def retry_all_deliveries(
        request: Request, caller: Operator, destination: _Name | None = None, waiting: bool = False
    ) -> Retried:
        """Retry every failed delivery, of a destination if it is given; with `waiting`, send now what waits, too."""
        with site.database.write() as session:
            retried = retry_failed_deliveries(session, site.clock(), (), destination, waiting=waiting)
        what = f"{request.url.path} to {destination}" if destination else request.url.path
        site.record(events.operated(caller.name, caller.address, what))
        return Retried(tuple(sorted(retried)))

    @routes.post("/deliveries/resend", responses=NOT_FOUND)
    def resend_deliveries(request: Request, chosen: ToResend, caller: Operator) -> Resent:
        """Send again what has arrived, or send it to a destination that never had it."""
        destination = require_destination(site, chosen.destination)
        what = Chosen(tuple(chosen.deliveries), chosen.study_instance_uid, chosen.series_instance_uid)
        sent = resend(site.database, what, destination.name, destination.accepted_kinds, site.clock())
        if not sent.again and not sent.added:
            raise HTTPException(404, "nothing of this can be sent there")
        named = chosen.study_instance_uid or chosen.series_instance_uid or " ".join(map(str, chosen.deliveries))
        audited = f"{request.url.path} to {destination.name}: {named}"
        site.record(events.operated(caller.name, caller.address, audited))
        return Resent(sent.again, sent.added)

    @routes.post("/deliveries/{number}/retry", responses=NOT_FOUND | CONFLICT)
    def retry_delivery(request: Request, number: RowNumber, caller: Operator) -> Retried:
        """Retry a failed delivery, or send a pending delivery without waiting."""
        with site.database.write() as session:
            retried = retry_failed_deliveries(session, site.clock(), [number])
            is_known = delivery_exists(session, number)
        if not is_known:
            raise HTTPException(404, "there is no such delivery")
        if not retried:
            raise HTTPException(409, "the delivery is in progress or has arrived")
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return Retried(tuple(retried))

    return routes
