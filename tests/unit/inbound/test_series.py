from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.testbed.instances import MODEL, NOON, later, new_instance
from worker import store
from worker.config import EligibilitySection, ReceiveSection, Settings, WorkerSection
from worker.inbound import series as series_module
from worker.inbound.series import refusal, settle_series
from worker.store import Store
from worker.tables import JobRow, JobState, SeriesRow, SeriesState

ATTRIBUTES: dict[str, Any] = {
    "modality": "MR",
    "image_type": ["ORIGINAL", "PRIMARY", "M"],
    "scanning_sequence": ["SE"],
    "body_part": "BRAIN",
    "frames": 1,
}
SETTINGS = Settings(worker=WorkerSection(data_dir=Path("unused")), receive=ReceiveSection(quiet_seconds=10))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"body_part": ""}, None),
        ({"modality": "CT"}, "modality"),
        ({"modality": ""}, "modality"),
        ({"image_type": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "image-type"),
        ({"image_type": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "image-type"),
        ({"scanning_sequence": ["EP", "GR"]}, "scanning-sequence"),
        ({"body_part": "KNEE"}, "body-part"),
    ],
)
def test_one_instance_that_breaks_a_rule_refuses_the_series(change: dict[str, Any], reason: str | None) -> None:
    refused = refusal([ATTRIBUTES, ATTRIBUTES, ATTRIBUTES | change], EligibilitySection())
    assert (refused.reason if refused else None) == reason


def test_slices_are_counted_over_frames() -> None:
    rules = EligibilitySection(minimum_slices=3, maximum_slices=20)
    assert refusal([ATTRIBUTES] * 2, rules).reason == "too-few-slices"  # type: ignore[union-attr]
    assert refusal([ATTRIBUTES | {"frames": 20}], rules) is None
    assert refusal([ATTRIBUTES | {"frames": 21}], rules).reason == "too-many-slices"  # type: ignore[union-attr]


def _add(database: Store, *numbers: int, seconds: float = 0, **changes: Any) -> None:
    with database.write() as session:
        for number in numbers:
            store.add_instance(session, new_instance(number, **changes), later(seconds))


def _model(database: Store) -> int:
    with database.write() as session:
        return store.model_row(session, MODEL, NOON).id


def _series(database: Store) -> SeriesRow:
    with database.read() as session:
        return session.scalars(select(SeriesRow)).one()


def _jobs(database: Store) -> list[JobRow]:
    with database.read() as session:
        return list(session.scalars(select(JobRow).order_by(JobRow.id)))


def test_silence_settles_and_not_a_moment_earlier(database: Store) -> None:
    _add(database, 1, 2, 3)
    model = _model(database)
    assert settle_series(database, SETTINGS, model, later(9.9)) == 0
    assert settle_series(database, SETTINGS, model, later(10)) == 1
    assert _series(database).state == SeriesState.QUEUED
    assert [job.state for job in _jobs(database)] == [JobState.PENDING]


def test_an_association_keeps_its_series_open_until_a_quiet_time_after_its_end(database: Store) -> None:
    with database.write() as session:
        association = store.open_association(session, "PACS", "127.0.0.1", "host:1", NOON)
    _add(database, 1, 2, 3, association_id=association)
    model = _model(database)
    assert settle_series(database, SETTINGS, model, later(60)) == 0
    with database.write() as session:
        store.close_association(session, association, later(61))
    assert settle_series(database, SETTINGS, model, later(70.9)) == 0
    assert settle_series(database, SETTINGS, model, later(71)) == 1


def test_an_association_whose_receiver_died_does_not_hold_a_series_for_ever(database: Store) -> None:
    with database.write() as session:
        association = store.open_association(session, "PACS", "127.0.0.1", "gone:1", NOON)
    _add(database, 1, 2, 3, association_id=association)
    assert settle_series(database, SETTINGS, _model(database), later(2 * SETTINGS.receive.idle_seconds)) == 1


def test_what_is_refused_is_recorded_with_its_reason(database: Store) -> None:
    _add(database, 1)
    settle_series(database, SETTINGS, _model(database), later(10))
    series = _series(database)
    assert (series.state, series.reason) == (SeriesState.REFUSED, "too-few-slices")
    assert series.detail == "1 of at least 3 slices"
    assert _jobs(database) == []


def test_late_instance_opens_the_series_again_and_makes_a_new_job(database: Store) -> None:
    _add(database, 1, 2, 3)
    model = _model(database)
    settle_series(database, SETTINGS, model, later(10))
    _add(database, 4, seconds=11)
    assert _series(database).state == SeriesState.OPEN
    settle_series(database, SETTINGS, model, later(21))
    first, second = _jobs(database)
    assert (first.state, first.reason) == (JobState.SUPERSEDED, "more-instances-came")
    assert second.state == JobState.PENDING
    assert second.last_instance_id == first.last_instance_id + 1
    assert second.input_sha256 != first.input_sha256


def test_a_series_that_was_too_small_is_queued_once_it_is_whole(database: Store) -> None:
    _add(database, 1)
    model = _model(database)
    settle_series(database, SETTINGS, model, later(10))
    _add(database, 2, 3, seconds=12)
    settle_series(database, SETTINGS, model, later(22))
    assert _series(database).reason is None
    assert [job.state for job in _jobs(database)] == [JobState.PENDING]


def test_a_slice_that_lands_between_look_and_lock_is_not_lost(database: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interleaving that loses slices in systems that settle by a look alone."""
    _add(database, 1, 2, 3)
    model = _model(database)
    real = series_module._settle

    def late(*arguments: Any) -> None:
        _add(database, 4, seconds=10)
        real(*arguments)

    monkeypatch.setattr(series_module, "_settle", late)
    settle_series(database, SETTINGS, model, later(10))
    monkeypatch.undo()
    assert _series(database).state == SeriesState.OPEN
    assert _jobs(database) == []
    settle_series(database, SETTINGS, model, later(20))
    [job] = _jobs(database)
    with database.read() as session:
        assert len(store.instances_of(session, job.series_id, job.last_instance_id)) == 4


def test_the_input_hash_does_not_depend_on_the_order_of_arrival() -> None:
    one, two = new_instance(1), new_instance(2, sha256="11" * 32)
    assert store.input_sha256([one, two]) == store.input_sha256([two, one])
    assert store.input_sha256([one]) != store.input_sha256([one, two])
