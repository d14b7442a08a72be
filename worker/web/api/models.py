"""/api/v1/models: every known model, comparing two, and choosing which answer."""

from __future__ import annotations

from fastapi import APIRouter

from worker.db.views.model_comparison import Comparison, ModelStatus
from worker.web import model_changes
from worker.web.dependencies import BundleHash, BundleHashQuery, Operator, Reader, Site, api_router
from worker.web.errors import CONFLICT, NOT_FOUND
from worker.web.model_changes import ModelChange


def models_api(site: Site) -> APIRouter:
    """The routes; a change needs a token that operates."""
    routes = api_router("models")

    @routes.get("/models")
    def list_models(caller: Reader) -> tuple[ModelStatus, ...]:
        """Every model that was ever added, the newest first, with its state."""
        return model_changes.list_models(site)

    @routes.get("/models/compare", responses=NOT_FOUND)
    def compare_models(first: BundleHashQuery, second: BundleHashQuery, caller: Reader) -> Comparison:
        """The results of two models, by bundle hash, for the same input sets, in shadow or not, and the readings."""
        return model_changes.compare_models(site, first, second)

    @routes.post("/models/rollback", responses=CONFLICT)
    def roll_back(caller: Operator) -> tuple[ModelStatus, ...]:
        """Undo the last activation."""
        model_changes.roll_back(site, caller)
        return model_changes.list_models(site)

    @routes.post("/models/{sha256}/{change}", responses=NOT_FOUND | CONFLICT)
    def change_model(
        sha256: BundleHash, change: ModelChange, caller: Operator, beside: bool = False
    ) -> tuple[ModelStatus, ...]:
        """Run a model in shadow, activate it in place of the active (`beside`: of its name only), or retire it."""
        model_changes.change_model(site, change, sha256, beside, caller)
        return model_changes.list_models(site)

    return routes
