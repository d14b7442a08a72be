from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import HTTPException

from tests.testbed.instances import MODEL, later
from tests.testbed.shown_bundle import make_shown_bundle
from worker.audit.messages import AuditEvent
from worker.db import models
from worker.db.tables import TokenRole
from worker.inference.bundle import verified_identity
from worker.jobs.bundle_store import BundleStore
from worker.results import ModelIdentity
from worker.web.dependencies import Site
from worker.web.guard import Caller
from worker.web.model_changes import ModelChange, change_model, compare_models, list_models, roll_back

OPERATOR = Caller("ada", TokenRole.OPERATE, "10.0.0.7")


@pytest.fixture
def second(site: Site, tmp_path: Path) -> ModelIdentity:
    """A second model, added, whose bundle is in the data folder."""
    folder = make_shown_bundle(tmp_path / "second", replace(MODEL, version="2.0"))
    BundleStore(site.settings).add(folder)
    identity = verified_identity(folder)
    with site.database.write() as session:
        models.add_model(session, identity, "ada", later(0))
    return identity


def _states(site: Site) -> dict[str, str]:
    return {status.version: status.state for status in list_models(site)}


def test_a_model_runs_in_shadow_answers_and_is_taken_back(
    site: Site, second: ModelIdentity, model: ModelIdentity, audited: list[AuditEvent]
) -> None:
    change_model(site, ModelChange.SHADOW, second.sha256, False, OPERATOR)
    assert _states(site) == {"2.0": "shadow", "1.0": "active"}
    change_model(site, ModelChange.ACTIVATE, second.sha256, False, OPERATOR)
    assert _states(site) == {"2.0": "active", "1.0": "retired"}
    assert BundleStore(site.settings).find(model.sha256) is not None  # kept, so that a rollback finds it
    roll_back(site, OPERATOR)
    assert _states(site)["1.0"] == "active"
    change_model(site, ModelChange.RETIRE, second.sha256, False, OPERATOR)
    assert _states(site) == {"2.0": "retired", "1.0": "active"}
    assert [event.participants[0].user_id for event in audited] == ["ada"] * len(audited)
    assert len(audited) == 4


@pytest.mark.parametrize(
    ("change", "sha256", "status", "detail"),
    [
        (ModelChange.RETIRE, "12" * 32, 404, "no model"),
        (ModelChange.SHADOW, "12" * 32, 409, "this host has no bundle"),
        (ModelChange.RETIRE, None, 409, "only active"),
    ],
)
def test_a_refused_change_is_not_audited(
    site: Site,
    model: ModelIdentity,
    audited: list[AuditEvent],
    change: ModelChange,
    sha256: str | None,
    status: int,
    detail: str,
) -> None:
    with pytest.raises(HTTPException) as fault:
        change_model(site, change, sha256 or model.sha256, False, OPERATOR)
    assert (fault.value.status_code, detail in fault.value.detail) == (status, True)
    with pytest.raises(HTTPException, match="no activation"):
        roll_back(site, OPERATOR)
    assert audited == []


def test_a_damaged_bundle_is_not_activated(site: Site, second: ModelIdentity) -> None:
    folder = BundleStore(site.settings).find(second.sha256)
    assert folder is not None
    (folder / "docs/README.md").write_text("changed")
    with pytest.raises(HTTPException, match="is not the exported file"):
        change_model(site, ModelChange.ACTIVATE, second.sha256, False, OPERATOR)
    assert _states(site)["2.0"] == "added"


def test_two_models_are_compared(site: Site, second: ModelIdentity, model: ModelIdentity) -> None:
    comparison = compare_models(site, model.sha256, second.sha256)
    assert (comparison.first, comparison.second, comparison.n) == ("test-model 1.0", "test-model 2.0", 0)
    with pytest.raises(HTTPException, match="no model"):
        compare_models(site, model.sha256, "12" * 32)
