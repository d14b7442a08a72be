from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.config.routing import RouteSection
from worker.config.settings import Settings
from worker.db import models
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.readings import NewReading, add_reading
from worker.db.results import add_result, add_shadow_result
from worker.db.tables import JobState, LoadState, ShadowResultRow
from worker.db.views.model_comparison import (
    AgainstReaders,
    ConfusionCell,
    awaited_models,
    compare_models,
    load_faults,
    model_statuses,
    unserved_models,
)
from worker.receive.settle import settle_series
from worker.results import ResultStatus, SeriesResult

SECOND = replace(MODEL, version="2.0", sha256="cd" * 32)


@pytest.fixture
def two(database: Database) -> Database:
    """test-model 1.0 is active by configuration, 2.0 is added."""
    with database.write() as session:
        models.set_configured_model(session, MODEL, later(0))
        models.add_model(session, SECOND, "ada", later(1))
    return database


def _receive(database: Database, *names: str) -> None:
    with database.write() as session:
        for name in names:
            for number in (1, 2, 3):
                add_instance(session, new_instance(number, name), later(0))


def _classify(database: Database, model_id: int, *results: SeriesResult, shadow: bool = False) -> None:
    """The model's jobs in the order of their series."""
    with database.write() as session:
        for result in results:
            job = claim_job(session, "me", model_id, later(200), timedelta(seconds=30), shadow=shadow)
            assert job is not None
            end_job(session, job.id, "me", JobState.DONE, later(201))
            if shadow:
                add_shadow_result(session, job, result, later(201))
            else:
                add_result(session, job, result, {}, [], [], later(201))


def test_models_are_compared_on_the_input_sets_of_both(two: Database) -> None:
    _receive(two, "z")
    settle_series(two, Settings(), later(50))  # seen by the first alone
    _classify(two, 1, classified())
    with two.write() as session:
        models.shadow_model(session, 2, "ada", later(60))
    _receive(two, "a", "b", "c", "d")
    settle_series(two, Settings(), later(100))
    none = replace(classified(), label="notumor")
    unsure = replace(
        classified(), status=ResultStatus.NOT_ASSESSED, label=None, probability=None, reason="too-uncertain"
    )
    _classify(two, 1, classified(), classified(), none, classified())
    _classify(two, 2, classified(), none, none, unsure, shadow=True)
    with two.write() as session:
        for series_id, label in ((2, "glioma"), (3, "notumor"), (5, "glioma"), (4, "other")):
            add_reading(session, series_id, NewReading(label, "reader", "", (), None, 0), later(300))
        add_reading(session, 3, NewReading("glioma", "reader", "", (), None, 1), later(301))
    with two.read() as session:
        rows = {row.id: row for row in models.all_models(session)}
        comparison = compare_models(session, rows[1], rows[2])
        assert session.scalars(select(ShadowResultRow)).all()
    assert (comparison.n, comparison.classified_by_both, comparison.agree, comparison.agreement) == (4, 3, 2, 2 / 3)
    assert (comparison.first_not_assessed, comparison.second_not_assessed) == (0, 1)
    assert comparison.confusion == (
        ConfusionCell("glioma", "glioma", 1),
        ConfusionCell("glioma", "not-assessed", 1),
        ConfusionCell("glioma", "notumor", 1),
        ConfusionCell("notumor", "notumor", 1),
    )
    assert comparison.read == 3
    assert comparison.first_against_readers == AgainstReaders(3, 0, 0)
    assert comparison.second_against_readers == AgainstReaders(1, 1, 1)


def test_a_tumour_of_unknown_kind_is_right_by_a_reader_who_knows_the_kind(two: Database) -> None:
    with two.write() as session:
        tumour = {"neoplasm": True, "lesion": True, "kind": False}
        for row in models.all_models(session):
            row.labels = {**(row.labels or {}), "tumor": tumour}
        models.shadow_model(session, 2, "ada", later(60))
    _receive(two, "a", "b", "c")
    settle_series(two, Settings(), later(100))
    unknown, none = replace(classified(), label="tumor"), replace(classified(), label="notumor")
    _classify(two, 1, unknown, unknown, classified())
    _classify(two, 2, none, none, none, shadow=True)
    with two.write() as session:
        for series_id, label in ((1, "glioma"), (2, "notumor"), (3, "tumor")):
            add_reading(session, series_id, NewReading(label, "reader", "", (), None, 0), later(300))
    with two.read() as session:
        rows = {row.id: row for row in models.all_models(session)}
        comparison = compare_models(session, rows[1], rows[2])
    assert comparison.read == 3
    assert comparison.first_against_readers == AgainstReaders(1, 1, 0)
    assert comparison.second_against_readers == AgainstReaders(1, 2, 0)


def test_models_that_saw_nothing_in_common_have_no_agreement(two: Database) -> None:
    with two.read() as session:
        rows = models.all_models(session)
        comparison = compare_models(session, rows[0], rows[1])
    assert (comparison.n, comparison.agreement, comparison.confusion, comparison.read) == (0, None, (), 0)


def test_a_status_names_the_hosts_that_cannot_load_the_model(two: Database) -> None:
    with two.write() as session:
        models.record_load(session, 1, "a:1", LoadState.LOADED, None, later(2))
        models.record_load(session, 1, "b:1", LoadState.FAILED, "no memory", later(2))
        models.record_load(session, 1, "c:1", LoadState.FAILED, "golden case", later(2))
    with two.read() as session:
        newest, oldest = model_statuses(session)
        assert load_faults(session) == {MODEL.sha256: "b: no memory; c: golden case"}
        assert unserved_models(session) == []
    assert (newest.version, newest.state, newest.state_by, newest.not_loaded) == ("2.0", "added", "ada", None)
    assert (oldest.version, oldest.state, oldest.not_loaded) == ("1.0", "active", "b: no memory; c: golden case")
    with two.write() as session:
        models.record_load(session, 1, "a:1", LoadState.FAILED, "gone", later(3))
    with two.read() as session:
        assert unserved_models(session) == ["test-model 1.0 cannot be loaded on any host"]


def test_series_wait_for_a_model_that_is_not_active(two: Database) -> None:
    route = RouteSection.model_validate({"name": "two", "models": ["test-model:2.0"]})
    with two.read() as session:
        assert awaited_models(session, []) == []
        assert len(awaited_models(session, [route])) == 1
    with two.write() as session:
        models.activate_model(session, 2, "ada", later(2))
    with two.read() as session:
        assert awaited_models(session, [route]) == []
