from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from tests.testbed import results
from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.config.settings import Settings
from worker.db import models
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.models import CONFIGURATION, NoSuchModel, NotPossible
from worker.db.results import add_result, add_shadow_result
from worker.db.tables import JobRow, JobState, ModelChoiceRow, ModelState, SeriesRow
from worker.receive.settle import settle_series
from worker.results import SeriesResult
from worker.service.roles import configure_model

FIRST = MODEL
SECOND = replace(MODEL, version="2.0", sha256="cd" * 32)
OTHER = replace(MODEL, name="other", sha256="ef" * 32)
NOBODY: list[str] = []


def _states(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {f"{row.name} {row.version}": row.state for row in reversed(models.all_models(session))}


def _id(database: Database, name: str, version: str) -> int:
    with database.read() as session:
        return models.find_model(session, name, version).id


@pytest.fixture
def three(database: Database) -> Database:
    """test-model 1.0 is active by configuration; 2.0 and other 1.0 are added."""
    with database.write() as session:
        models.set_configured_model(session, FIRST, later(0))
        for number, identity in enumerate((SECOND, OTHER), 1):
            assert models.add_model(session, identity, "ada", later(number))[1]
    return database


def _do(database: Database, change: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with database.write() as session:
        change(session, *arguments, **options)


def test_a_model_of_an_earlier_version_learns_what_its_labels_mean(database: Database) -> None:
    with database.write() as session:
        models.model_row(session, FIRST, later(0)).labels = None
    with database.write() as session:
        row = models.model_row(session, FIRST, later(1))
        assert row.labels == {
            "glioma": {"neoplasm": True, "lesion": True, "kind": True},
            "notumor": {"neoplasm": False, "lesion": False, "kind": True},
        }
        assert models.model_row(session, results.MODEL_OF_LESIONS, later(2)).labels["tumor"]["kind"] is False


def test_the_configured_bundle_is_active_until_somebody_chooses(database: Database) -> None:
    _do(database, models.set_configured_model, FIRST, later(0))
    _do(database, models.set_configured_model, SECOND, later(1))  # another [worker] bundle, or a newer worker
    assert _states(database) == {"test-model 1.0": "retired", "test-model 2.0": "active"}
    _do(database, models.activate_model, _id(database, "test-model", "1.0"), "ada", later(2))
    _do(database, models.set_configured_model, SECOND, later(3))
    _do(database, models.set_configured_model, OTHER, later(4))
    assert _states(database) == {"test-model 1.0": "active", "test-model 2.0": "retired", "other 1.0": "added"}


def test_an_activation_takes_the_place_of_what_was_active(three: Database) -> None:
    _do(three, models.activate_model, _id(three, "other", "1.0"), "ada", later(5))
    assert _states(three) == {"test-model 1.0": "retired", "test-model 2.0": "added", "other 1.0": "active"}
    with three.read() as session:
        row = models.find_model(session, "other", "1.0")
    assert (row.state_by, row.state_at) == ("ada", later(5))


def test_beside_leaves_models_of_other_names_active(three: Database) -> None:
    _do(three, models.activate_model, _id(three, "other", "1.0"), "ada", later(5), beside=True)
    _do(three, models.activate_model, _id(three, "test-model", "2.0"), "ada", later(6), beside=True)
    assert _states(three) == {"test-model 1.0": "retired", "test-model 2.0": "active", "other 1.0": "active"}


def test_rollback_undoes_one_activation_after_the_other(three: Database) -> None:
    start = _states(three)
    _do(three, models.shadow_model, _id(three, "test-model", "2.0"), "ada", later(4))
    shadowed = _states(three)
    assert shadowed == start | {"test-model 2.0": "shadow"}
    _do(three, models.activate_model, _id(three, "test-model", "2.0"), "ada", later(5))
    _do(three, models.activate_model, _id(three, "other", "1.0"), "ada", later(6))
    _do(three, models.undo_activation, "bo", later(7))
    assert _states(three) == start | {"test-model 1.0": "retired", "test-model 2.0": "active"}
    _do(three, models.undo_activation, "bo", later(8))
    assert _states(three) == shadowed
    with pytest.raises(NotPossible, match="no model was active before"):
        _do(three, models.undo_activation, "bo", later(9))
    assert _states(three) == shadowed


@pytest.mark.parametrize("change", ["activate", "rollback"])
def test_a_process_killed_while_it_chooses_changes_nothing_or_all(three: Database, change: str) -> None:
    two = _id(three, "test-model", "2.0")
    if change == "rollback":
        _do(three, models.activate_model, two, "ada", later(5))

    def choose() -> None:
        if change == "activate":
            _do(three, models.activate_model, two, "ada", later(6))
        else:
            _do(three, models.undo_activation, "ada", later(6))

    before, at = _states(three), 0
    while _killed(three, at, choose):
        assert _states(three) == before, at
        at += 1
    assert at > 3
    assert _states(three) != before


class _Killed(BaseException):
    pass


def _killed(database: Database, at: int, work: Callable[[], None]) -> bool:
    """Do the work up to its statement `at`; False when it had fewer and is done."""
    steps = 0

    def step(*_: Any) -> None:
        nonlocal steps
        if steps == at:
            raise _Killed
        steps += 1

    event.listen(database.engine, "before_cursor_execute", step)
    try:
        work()
    except _Killed:
        return True
    finally:
        event.remove(database.engine, "before_cursor_execute", step)
    return False


def test_a_model_in_use_or_with_jobs_is_not_removed(three: Database) -> None:
    first, second = _id(three, "test-model", "1.0"), _id(three, "test-model", "2.0")
    with pytest.raises(NotPossible, match="active"):
        _do(three, models.remove_model, first, "ada", later(5))
    with pytest.raises(NotPossible, match="only active"):
        _do(three, models.retire_model, first, "ada", later(5))
    _receive(three, "a")
    settle_series(three, Settings(), later(100))
    _do(three, models.activate_model, second, "ada", later(101))
    with pytest.raises(NotPossible, match="jobs"):
        _do(three, models.remove_model, first, "ada", later(102))
    _classify(three, 1, classified())
    _do(three, models.remove_model, first, "ada", later(103))
    assert _states(three)["test-model 1.0"] == "removed"
    with pytest.raises(NotPossible, match="before but is removed"):
        _do(three, models.undo_activation, "ada", later(104))
    with pytest.raises(NotPossible, match="was removed"):
        _do(three, models.activate_model, first, "ada", later(105))
    _do(three, models.add_model, FIRST, "ada", later(106))
    assert _states(three)["test-model 1.0"] == "added"


def test_a_name_and_version_mean_one_bundle(three: Database) -> None:
    with pytest.raises(NotPossible, match="give this bundle another version"):
        _do(three, models.add_model, replace(FIRST, sha256="99" * 32), "ada", later(5))
    with three.write() as session:
        assert not models.add_model(session, SECOND, "ada", later(5))[1]
        assert models.find_model(session, "test-model", "cd" * 5).version == "2.0"
        assert models.find_model_named(session, "other").sha256 == OTHER.sha256
        for wrong in ("test-model", "nothing", "test-model:3"):
            with pytest.raises(NoSuchModel):
                models.find_model_named(session, wrong)


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
                add_result(session, job, result, {}, [], NOBODY, later(201))


def test_series_settle_for_the_models_of_that_moment(three: Database) -> None:
    two = _id(three, "test-model", "2.0")
    _do(three, models.shadow_model, two, "ada", later(3))
    _receive(three, "a")
    settle_series(three, Settings(), later(100))
    _do(three, models.activate_model, two, "ada", later(101))
    _receive(three, "b")
    settle_series(three, Settings(), later(102))
    with three.read() as session:
        jobs = session.execute(select(JobRow.series_id, JobRow.model_id, JobRow.shadow).order_by(JobRow.id)).all()
    # What waits for the earlier model is finished by it; the model that ran in shadow stays silent on that series.
    assert [tuple(row) for row in jobs] == [(1, 1, False), (1, two, True), (2, two, False)]


def test_without_an_active_model_a_series_waits(database: Database) -> None:
    _receive(database, "a")
    settle_series(database, Settings(), later(100))
    with database.read() as session:
        assert session.scalars(select(SeriesRow)).one().state == "open"
    _do(database, models.set_configured_model, FIRST, later(101))
    settle_series(database, Settings(), later(102))
    with database.read() as session:
        assert session.scalars(select(SeriesRow)).one().state == "queued"


def test_two_people_who_choose_at_once_leave_one_model_active(three: Database) -> None:
    ids: Sequence[int] = (_id(three, "test-model", "2.0"), _id(three, "other", "1.0"))

    def choose(model_id: int) -> None:
        for _ in range(5):
            _do(three, models.activate_model, model_id, "ada", later(5))

    threads = [threading.Thread(target=choose, args=(model_id,)) for model_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(_states(three).values()).count(ModelState.ACTIVE) == 1
    with three.read() as session:
        made = session.scalars(select(ModelChoiceRow.made_by).order_by(ModelChoiceRow.id)).all()
    assert made[0] == CONFIGURATION


def test_hosts_that_start_at_once_make_one_row_of_the_configured_bundle(database: Database) -> None:
    faults: list[BaseException] = []
    together = threading.Barrier(3)

    def start() -> None:
        together.wait()
        try:
            configure_model(Settings(), database, lambda: later(0))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert list(_states(database).values()) == ["active"]
