from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.testbed.instances import MODEL, Clock, classified, later, new_instance
from worker.config.settings import Settings
from worker.db import models
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.tables import JobRow, JobState, LoadState
from worker.db.views.model_comparison import model_statuses, unserved_models
from worker.errors import StartError
from worker.inference.illustrated import IllustratedResult
from worker.jobs.bundle_store import BundleStore, ServedModel
from worker.jobs.model_pool import TRY_AGAIN, ModelPool
from worker.process import process_name
from worker.receive.settle import settle_series
from worker.results import ModelIdentity

TWO = replace(MODEL, version="2.0", sha256="cd" * 32)
HERE = "host:1"


class Store(BundleStore):
    """Bundles by hash, and what happens when a bundle is loaded."""

    def __init__(self, *identities: ModelIdentity) -> None:
        self.known = {one.sha256: one for one in identities}
        self.faults: dict[str, Exception] = {}
        self.loaded: list[str] = []

    def find(self, sha256: str) -> Path | None:
        return Path(sha256) if sha256 in self.known else None

    def load(self, folder: Path) -> ServedModel:
        identity = self.known[str(folder)]
        self.loaded.append(identity.version)
        if identity.sha256 in self.faults:
            raise self.faults[identity.sha256]
        return ServedModel(identity, _classify)


def _classify(_paths: Sequence[Path]) -> IllustratedResult:
    return classified()


@pytest.fixture
def store() -> Store:
    return Store(MODEL, TWO)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _pool(database: Database, store: Store, clock: Clock, owner: str = HERE) -> ModelPool:
    return ModelPool(database, store, owner, clock)


def _versions(pool: ModelPool) -> list[str]:
    pool.refresh()
    return [model.identity.version for model in pool.current().values()]


@pytest.fixture
def two(database: Database) -> Database:
    """1.0 active, 2.0 in shadow."""
    with database.write() as session:
        models.set_configured_model(session, MODEL, later(0))
        row, _ = models.add_model(session, TWO, "ada", later(1))
        models.shadow_model(session, row.id, "ada", later(2))
    return database


def test_a_change_of_the_choice_is_served_without_a_restart(two: Database, store: Store, clock: Clock) -> None:
    pool = _pool(two, store, clock)
    assert _versions(pool) == ["1.0", "2.0"]
    with two.write() as session:
        models.activate_model(session, models.model_by_sha256(session, TWO.sha256).id, "ada", later(3))
    assert _versions(pool) == ["2.0"]  # nothing waits for 1.0
    with two.write() as session:
        models.undo_activation(session, "ada", later(4))
    assert _versions(pool) == ["2.0", "1.0"]
    assert store.loaded == ["1.0", "2.0", "1.0"]


def test_a_retired_model_is_served_until_its_jobs_are_done(two: Database, store: Store, clock: Clock) -> None:
    with two.write() as session:
        for number in (1, 2, 3):
            add_instance(session, new_instance(number), later(0))
    settle_series(two, Settings(), later(100))
    with two.write() as session:
        models.activate_model(session, models.model_by_sha256(session, TWO.sha256).id, "ada", later(101))
    pool = _pool(two, store, clock)
    assert _versions(pool) == ["2.0", "1.0"]
    with two.write() as session:
        job = claim_job(session, "me", 1, later(102), timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, later(103))
    assert _versions(pool) == ["2.0"]


@pytest.mark.parametrize("fault", [StartError("bundle-golden", "golden case 'x'"), MemoryError()])
def test_a_model_that_cannot_be_loaded_stops_no_other_and_is_told(
    two: Database, store: Store, clock: Clock, fault: Exception
) -> None:
    store.faults[TWO.sha256] = fault
    pool = _pool(two, store, clock)
    assert _versions(pool) == ["1.0"]
    assert _versions(pool) == ["1.0"]
    assert store.loaded == ["1.0", "2.0"]  # not again at once
    with two.read() as session:
        told = {one.version: one.not_loaded for one in model_statuses(session)}
        assert unserved_models(session) == []
    assert told["1.0"] is None
    assert told["2.0"] is not None
    assert told["2.0"].startswith("host: ")
    store.faults.clear()
    clock.ahead = TRY_AGAIN + timedelta(seconds=1)
    assert _versions(pool) == ["1.0", "2.0"]
    with two.read() as session:
        assert {one.not_loaded for one in model_statuses(session)} == {None}


def test_without_any_model_the_process_does_not_start(two: Database, store: Store, clock: Clock) -> None:
    store.known.clear()
    pool = _pool(two, store, clock)
    pool.refresh()
    with pytest.raises(StartError, match="no such bundle"):
        pool.require_any()
    with two.read() as session:
        assert unserved_models(session) == ["test-model 1.0 cannot be loaded on any host"]


@pytest.mark.parametrize(("version", "sha256"), [("1.0", MODEL.sha256), ("2.0", TWO.sha256)])
def test_a_shadow_that_kills_its_process_is_left_out_and_the_only_active_model_never(
    two: Database, store: Store, clock: Clock, version: str, sha256: str
) -> None:
    host = process_name().partition(":")[0]
    dead = f"{host}:{2**22 + 1}"  # beyond the largest number of a process
    with two.write() as session:
        row = models.model_by_sha256(session, sha256)
        models.record_load(session, row.id, dead, LoadState.LOADING, None, later(0), deaths=2)
    assert (version in _versions(_pool(two, store, clock, f"{host}:1"))) is (version == "1.0")


def test_jobs_of_a_model_without_a_bundle_go_to_the_active_one(two: Database, store: Store, clock: Clock) -> None:
    with two.write() as session:
        for number in (1, 2, 3):
            add_instance(session, new_instance(number), later(0))
    settle_series(two, Settings(), later(100))  # for 1.0, and for 2.0 in shadow
    newer = replace(MODEL, version="3.0", sha256="ef" * 32)
    with two.write() as session:
        models.retire_model(session, models.model_by_sha256(session, TWO.sha256).id, "ada", later(101))
        models.set_configured_model(session, newer, later(102))  # an upgrade of the worker: its earlier bundle is gone
    store.known = {newer.sha256: newer}
    assert _versions(_pool(two, store, clock)) == ["3.0"]
    with two.read() as session:
        jobs = session.execute(select(JobRow.model_id, JobRow.state).order_by(JobRow.id)).all()
    assert [tuple(one) for one in jobs] == [(3, "pending"), (2, "superseded")]
