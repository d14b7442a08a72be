from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select

from tests.testbed.instances import MODEL, later
from tests.testbed.web_site import API, bearer
from worker.db import models
from worker.db.engine import Database
from worker.db.jobs import claim_job, end_job
from worker.db.series import queue_series
from worker.db.tables import JobState, SeriesRow, TokenRole
from worker.results import ModelIdentity

SECOND = "cd" * 32


@pytest.fixture
def second(guarded: tuple[httpx.Client, Database]) -> tuple[httpx.Client, Database]:
    """A second model, added; the first one active."""
    client, database = guarded
    with database.write() as session:
        models.add_model(session, replace(MODEL, version="2.0", sha256=SECOND), "ada", later(0))
    return client, database


def test_models_are_chosen_by_an_operator_alone(second: tuple[httpx.Client, Database], model: ModelIdentity) -> None:
    client, database = second
    read, operate = bearer(database, TokenRole.READ, "model reader"), bearer(database, TokenRole.OPERATE, "model op")

    def states() -> dict[str, str]:
        return {row["version"]: row["state"] for row in client.get(f"{API}/models", headers=read).json()}

    assert states() == {"1.0": "active", "2.0": "added"}
    assert client.post(f"{API}/models/{model.sha256}/activate", headers=read).status_code == 403
    for path, status, detail in (
        (f"{SECOND}/shadow", 409, "this host has no bundle"),
        (f"{model.sha256}/shadow", 409, "is active"),
        (f"{model.sha256}/retire", 409, "only active"),
        (f"{'12' * 32}/retire", 404, "no model"),
        ("rollback", 409, "no activation"),
    ):
        answer = client.post(f"{API}/models/{path}", headers=operate)
        assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), path
    with database.write() as session:
        models.activate_model(session, models.model_by_sha256(session, SECOND).id, "ada", later(1))
    answer = client.post(f"{API}/models/{model.sha256}/activate", headers=operate)
    assert {row["version"]: row["state_by"] for row in answer.json() if row["state"] == "active"} == {"1.0": "model op"}
    assert client.post(f"{API}/models/rollback", headers=operate).status_code == 200
    assert states() == {"1.0": "retired", "2.0": "active"}
    both = f"first={model.sha256}&second={SECOND}"
    compared = client.get(f"{API}/models/compare?{both}", headers=read).json()
    assert (compared["n"], compared["agreement"], compared["first"]) == (0, None, "test-model 1.0")
    assert client.get(f"{API}/models/compare?first={SECOND}&second={'12' * 32}", headers=read).status_code == 404


def test_models_are_listed(client: httpx.Client) -> None:
    assert [row["name"] for row in client.get(f"{API}/models").json()] == ["test-model"]


def test_a_parked_job_in_shadow_is_told_from_one_whose_answer_is_waited_for(
    second: tuple[httpx.Client, Database],
) -> None:
    client, database = second
    read = bearer(database, TokenRole.READ, "queue reader")
    with database.write() as session:
        [candidate] = [row for row in models.all_models(session) if row.sha256 == SECOND]
        series = session.scalars(select(SeriesRow).where(SeriesRow.patient_id == "ID-a")).one()
        assert queue_series(session, series, candidate.id, later(9), shadow=True) is not None
        job = claim_job(session, "me", candidate.id, later(9), timedelta(seconds=30), shadow=True)
        assert job is not None
        end_job(session, job.id, "me", JobState.PARKED, later(9), reason="time-limit")
    listed = client.get(f"{API}/jobs", params={"state": "parked"}, headers=read).json()["jobs"]
    assert {row["number"] for row in listed if row["shadow"]} == {job.id}
    rows = client.get("/queue", headers=read).text.split("<tr>")
    assert [f"Job {job.id}<" in row for row in rows if ">shadow<" in row] == [True]
