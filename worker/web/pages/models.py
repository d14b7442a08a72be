"""GET /models: every model with its card and figures, comparing two, and the buttons that choose which answer."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from worker.db.tables import ModelState
from worker.web.dependencies import BundleHash, BundleHashQuery, Operator, Reader, Site
from worker.web.model_changes import ModelChange, change_model, compare_models, list_models, roll_back
from worker.web.pages.layout import render_page
from worker.web.pages.model_card import card_as_html
from worker.web.pages.model_figures import read_figures


def models_page(site: Site) -> APIRouter:
    """The pages; the buttons need a token that operates."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/models")
    def models(caller: Reader) -> Response:
        bundles = {bundle.sha256: bundle for bundle in site.bundles()}
        known = list_models(site)
        return render_page(
            site,
            "models.html",
            caller,
            known=known,
            active=[model for model in known if model.state == ModelState.ACTIVE],
            bundles=bundles,
            cards={sha256: card_as_html(bundle.card) for sha256, bundle in bundles.items()},
            measured={sha256: read_figures(bundle.figures) for sha256, bundle in bundles.items()},
        )

    @routes.get("/models/compare")
    def compare(first: BundleHashQuery, second: BundleHashQuery, caller: Reader) -> Response:
        comparison = compare_models(site, first, second)
        return render_page(
            site,
            "compare.html",
            caller,
            comparison=comparison,
            titles=site.class_titles(),
            counts={(cell.first, cell.second): cell.n for cell in comparison.confusion},
            rows=sorted({cell.first for cell in comparison.confusion}),
            columns=sorted({cell.second for cell in comparison.confusion}),
        )

    @routes.post("/models/rollback")
    def undo_activation(caller: Operator) -> Response:
        roll_back(site, caller)
        return RedirectResponse("/models", 303)

    @routes.post("/models/{sha256}/{change}")
    def change(sha256: BundleHash, change: ModelChange, caller: Operator, beside: bool = False) -> Response:
        change_model(site, change, sha256, beside, caller)
        return RedirectResponse("/models", 303)

    return routes
