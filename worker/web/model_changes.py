"""Choosing which models answer, in the browser and by REST; audited like the same commands of `worker models`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from fastapi import HTTPException

from worker.audit import events
from worker.db import models
from worker.db.engine import Session
from worker.db.tables import ModelRow
from worker.db.views import model_comparison
from worker.db.views.model_comparison import Comparison, ModelStatus
from worker.errors import StartError
from worker.inference.bundle import verified_identity
from worker.jobs.bundle_store import BundleStore
from worker.web.dependencies import Site
from worker.web.guard import Caller


class ModelChange(StrEnum):
    """What can be done with a model."""

    SHADOW = "shadow"
    ACTIVATE = "activate"
    RETIRE = "retire"


_AUDITED_AS = {ModelChange.SHADOW: "in shadow", ModelChange.ACTIVATE: "activated", ModelChange.RETIRE: "retired"}


def list_models(site: Site) -> tuple[ModelStatus, ...]:
    """Every model that was ever added, the newest first."""
    with site.database.read() as session:
        return tuple(model_comparison.model_statuses(session))


def compare_models(site: Site, first: str, second: str) -> Comparison:
    """Compare two models, given by bundle hash. Raises HTTPException 404."""
    with site.database.read() as session:
        return model_comparison.compare_models(session, _require_model(session, first), _require_model(session, second))


def change_model(site: Site, change: ModelChange, sha256: str, beside: bool, caller: Caller) -> None:
    """Run a model in shadow, activate or retire it. Raises HTTPException 404 or 409.

    The hashes of its bundle are verified here; its golden cases run in the processes that load it.
    """
    try:
        if change != ModelChange.RETIRE:
            _verify_bundle(site, sha256)
        with site.database.write() as session:
            row = _require_model(session, sha256)
            if change == ModelChange.SHADOW:
                models.shadow_model(session, row.id, caller.name, site.clock())
            elif change == ModelChange.ACTIVATE:
                models.activate_model(session, row.id, caller.name, site.clock(), beside)
            else:
                models.retire_model(session, row.id, caller.name, site.clock())
    except (StartError, models.NotPossible) as fault:
        raise HTTPException(409, fault.detail) from None
    _audit(site, caller, _AUDITED_AS[change], [row])


def roll_back(site: Site, caller: Caller) -> None:
    """Undo the last activation. Raises HTTPException 409."""
    try:
        with site.database.write() as session:
            active = models.undo_activation(session, caller.name, site.clock())
    except models.NotPossible as fault:
        raise HTTPException(409, fault.detail) from None
    _audit(site, caller, "active after a rollback", active)


def _verify_bundle(site: Site, sha256: str) -> None:
    """Raises StartError where this host has no intact bundle of this hash."""
    store = BundleStore(site.settings)
    verified_identity(store.require(sha256))
    store.add(store.configured())  # a rollback needs it, whatever is configured then


def _require_model(session: Session, sha256: str) -> ModelRow:
    try:
        return models.model_by_sha256(session, sha256)
    except models.NoSuchModel as fault:
        raise HTTPException(404, fault.detail) from None


def _audit(site: Site, caller: Caller, change: str, rows: Sequence[ModelRow]) -> None:
    for row in rows:
        site.record(events.model_changed(caller.name, caller.address, change, row.name, row.version, row.sha256))
