"""/api/v1/deliveries: deliveries that have not arrived, and retrying failed deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, HTTPException, Request

from worker.audit import events
from worker.db.deliveries import delivery_exists, retry_failed_deliveries
from worker.db.tables import DeliveryState
from worker.db.views.queue import UnfinishedDelivery, unfinished_deliveries
from worker.web.dependencies import After, Limit, Operator, Reader, Retried, RowNumber, Site, api_router
from worker.web.errors import CONFLICT, NOT_FOUND

_UnfinishedState = Literal[DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.FAILED]


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Oldest first; ask again with `after` set to the last number."""

    deliveries: tuple[UnfinishedDelivery, ...]


def deliveries_api(site: Site) -> APIRouter:
    """The routes; a retry needs a token that operates."""
    routes = api_router("deliveries")

    @routes.get("/deliveries")
    def list_deliveries(
        caller: Reader, state: _UnfinishedState | None = None, after: After = 0, limit: Limit = 50
    ) -> DeliveryPage:
        """Deliveries that have not arrived: pending, sending, or failed with the reason. A series shows its own."""
        with site.database.read() as session:
            return DeliveryPage(tuple(unfinished_deliveries(session, state, after, limit)))

    @routes.post("/deliveries/retry")
    def retry_all_deliveries(request: Request, caller: Operator) -> Retried:
        """Retry every failed delivery."""
        with site.database.write() as session:
            retried = retry_failed_deliveries(session, site.clock())
        site.record(events.operated(caller.name, caller.address, request.url.path))
        return Retried(tuple(sorted(retried)))

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
