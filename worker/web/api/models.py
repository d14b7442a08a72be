"""Choosing models in the browser and by REST: the same changes as `worker models` makes, audited in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Response
from fastapi.responses import RedirectResponse

from worker.audit import events
from worker.config.settings import Settings
from worker.db import models
from worker.db.engine import Session
from worker.db.tables import ModelRow
from worker.db.views.model_comparison import Comparison, ModelStatus, compare_models, model_statuses
from worker.errors import StartError
from worker.inference.bundle import verified_identity
from worker.jobs.bundle_store import BundleStore
from worker.web.dependencies import Operator, Reader, Site
from worker.web.errors import CONFLICT, NOT_FOUND
from worker.web.guard import Caller

Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
AskedSha256 = Annotated[str, Query(pattern="^[0-9a-f]{64}$")]


class Change(StrEnum):
    """What may be done with one model."""

    SHADOW = "shadow"
    ACTIVATE = "activate"
    RETIRE = "retire"


_SAID = {Change.SHADOW: "in shadow", Change.ACTIVATE: "activated", Change.RETIRE: "retired"}


@dataclass(frozen=True)
class ModelDesk:
    """What the routes share; refusals are 404 and 409 with the reason."""

    site: Site

    def known(self) -> tuple[ModelStatus, ...]:
        with self.site.database.read() as session:
            return tuple(model_statuses(session))

    def compare(self, first: str, second: str) -> Comparison:
        with self.site.database.read() as session:
            return compare_models(session, _found(session, first), _found(session, second))

    def change(self, change: Change, sha256: str, beside: bool, caller: Caller) -> None:
        """The bundle is verified by its hashes; its golden cases run in the processes that load it."""
        try:
            if change != Change.RETIRE:
                _verify_bundle(self.site.settings, sha256)
            with self.site.database.write() as session:
                row = _found(session, sha256)
                if change == Change.SHADOW:
                    models.shadow_model(session, row.id, caller.name, self.site.clock())
                elif change == Change.ACTIVATE:
                    models.activate_model(session, row.id, caller.name, self.site.clock(), beside)
                else:
                    models.retire_model(session, row.id, caller.name, self.site.clock())
        except (StartError, models.NotPossible) as fault:
            raise HTTPException(409, fault.detail) from None
        self._audit(caller, _SAID[change], [row])

    def roll_back(self, caller: Caller) -> None:
        try:
            with self.site.database.write() as session:
                active = models.undo_activation(session, caller.name, self.site.clock())
        except models.NotPossible as fault:
            raise HTTPException(409, fault.detail) from None
        self._audit(caller, "active after a rollback", active)

    def _audit(self, caller: Caller, what: str, rows: Sequence[ModelRow]) -> None:
        for row in rows:
            self.site.record(events.model_changed(caller.name, caller.address, what, row.name, row.version, row.sha256))


def _verify_bundle(settings: Settings, sha256: str) -> None:
    """Raises StartError where this host has no intact bundle of this hash."""
    store = BundleStore(settings)
    verified_identity(store.require(sha256))
    store.add(store.configured())  # a rollback must find it, whatever is configured then


def _found(session: Session, sha256: str) -> ModelRow:
    try:
        return models.model_by_sha256(session, sha256)
    except models.NoSuchModel as fault:
        raise HTTPException(404, fault.detail) from None


def add_model_api(routes: APIRouter, desk: ModelDesk) -> None:
    """/models below the routes' prefix."""

    @routes.get("/models", tags=["models"])
    def list_models(caller: Reader) -> tuple[ModelStatus, ...]:
        """Every model that was ever known, the newest first, with its state."""
        return desk.known()

    @routes.get("/models/compare", tags=["models"], responses=NOT_FOUND)
    def compare_models(first: AskedSha256, second: AskedSha256, caller: Reader) -> Comparison:
        """What two models, by bundle hash, said of the same input sets, in shadow or not; and what readers said."""
        return desk.compare(first, second)

    @routes.post("/models/rollback", tags=["models"], responses=CONFLICT)
    def roll_back(caller: Operator) -> tuple[ModelStatus, ...]:
        """Undo the last activation."""
        desk.roll_back(caller)
        return desk.known()

    @routes.post("/models/{sha256}/{change}", tags=["models"], responses=NOT_FOUND | CONFLICT)
    def change_model(sha256: Sha256, change: Change, caller: Operator, beside: bool = False) -> tuple[ModelStatus, ...]:
        """Put a model in shadow, activate it in the place of what is active (`beside`: of its name only), retire it."""
        desk.change(change, sha256, beside, caller)
        return desk.known()


def add_model_forms(routes: APIRouter, desk: ModelDesk) -> None:
    """The buttons of the page."""

    @routes.post("/models/rollback")
    def roll_back(caller: Operator) -> Response:
        desk.roll_back(caller)
        return RedirectResponse("/models", 303)

    @routes.post("/models/{sha256}/{change}")
    def change_model(sha256: Sha256, change: Change, caller: Operator, beside: bool = False) -> Response:
        desk.change(change, sha256, beside, caller)
        return RedirectResponse("/models", 303)
