from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from tests.testbed.instances import MODEL, later
from tests.testbed.web_site import bearer
from worker.db import models
from worker.db.engine import Database
from worker.db.tables import LoadState, TokenRole
from worker.results import ModelIdentity

SECOND = "cd" * 32


@pytest.fixture
def second(guarded: tuple[httpx.Client, Database]) -> tuple[httpx.Client, Database]:
    """A second model, in shadow; the first one active."""
    client, database = guarded
    with database.write() as session:
        models.add_model(session, replace(MODEL, version="2.0", sha256=SECOND), "ada", later(0))
        rows = {row.version: row for row in models.all_models(session)}
        models.activate_model(session, rows["1.0"].id, "ada", later(5))
        models.shadow_model(session, rows["2.0"].id, "ada", later(5))
        models.record_load(session, rows["2.0"].id, "far:1", LoadState.FAILED, "no such bundle", later(6))
    return client, database


def test_the_page_shows_states_and_buttons(second: tuple[httpx.Client, Database]) -> None:
    client, database = second
    read, operate = bearer(database, TokenRole.READ, "page reader"), bearer(database, TokenRole.OPERATE, "page op")
    page = client.get("/models", headers=operate).text
    for text in (
        "Activate test-model 2.0",
        "Retire test-model 2.0",
        "Not loaded on far: no such bundle",
        "Compare with",
    ):
        assert text in page
    assert "Retire test-model 1.0" not in page
    assert "<form" not in client.get("/models", headers=read).text.partition("<main")[2]
    answer = client.post(f"/models/{SECOND}/retire", headers=operate)
    assert (answer.status_code, answer.headers["location"]) == (303, "/models")
    assert client.post(f"/models/{SECOND}/retire", headers=read).status_code == 403
    assert client.post("/models/rollback", headers=operate).status_code == 409


def test_a_bundle_of_this_host_is_described_with_its_card(client: httpx.Client, model: ModelIdentity) -> None:
    page = client.get("/models").text
    assert f'<article class="model" id="m{model.sha256[:12]}">' in page
    assert "<dt>Classes</dt><dd>Glioma, No tumour</dd>" in page
    assert "<h2>A test model</h2>" in page


def test_two_models_are_compared(second: tuple[httpx.Client, Database], model: ModelIdentity) -> None:
    client, database = second
    read = bearer(database, TokenRole.READ, "comparing reader")
    page = client.get("/models/compare", params={"first": model.sha256, "second": SECOND}, headers=read)
    assert page.status_code == 200
    assert "No input set was classified by both" in page.text
    answer = client.get("/models/compare", params={"first": model.sha256, "second": "12" * 32}, headers=read)
    assert answer.status_code == 404
