from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.testbed.instances import MODEL, NOON, classified, later, mr_instance, new_instance, received
from worker.audit.messages import AuditEvent
from worker.config.sections import ReceiveSection, RetentionSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import kept_files
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.tables import (
    DeliveryRow,
    EarlierVersionRow,
    InstanceRow,
    JobState,
    ObjectKind,
    SeriesRow,
    SeriesState,
    StudyRow,
    StudyState,
)
from worker.dicom.standard import derive_uid
from worker.receive.settle import settle_series
from worker.storage.keeper import InstanceKeeper
from worker.storage.pending import StoreOutcome
from worker.storage.retention import remove_old_pixels

DAY = 86400


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        worker=WorkerSection(data_dir=tmp_path),
        receive=ReceiveSection(quiet_seconds=10),
        retention=RetentionSection(pixel_days=7),
    )


@pytest.fixture
def keeper(database: Database, tmp_path: Path) -> Iterator[InstanceKeeper]:
    keeper = InstanceKeeper(database, tmp_path, lambda: NOON, minimum_free_bytes=0)
    yield keeper
    keeper.close()


def _answered(database: Database, settings: Settings, keeper: InstanceKeeper, **delivery: Any) -> None:
    """Three instances of one series, classified, with one delivery in that state."""
    for number in (1, 2, 3):
        keeper.keep(received(mr_instance(number)))
    with database.write() as session:
        model = model_row(session, MODEL, NOON).id
    settle_series(database, settings, later(10))
    with database.write() as session:
        job = claim_job(session, "me", model, later(11), timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, later(12))
        new = new_instance(1)
        objects = [NewObject(ObjectKind.REPORT, "1.2", derive_uid("r"), "objects/r", "00" * 32)]
        add_result(session, job, classified([new]), {new.sop_instance_uid: 1}, objects, ["pacs"], later(12))
        session.execute(update(DeliveryRow).values(**delivery))
        session.execute(update(StudyRow).values(state=StudyState.ANSWERED))


def _files(tmp_path: Path) -> int:
    return len(list((tmp_path / "instances").rglob("*.dcm")))


def test_pixels_go_when_their_time_has_come_and_rows_stay(
    database: Database, settings: Settings, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    _answered(database, settings, keeper, state="delivered")
    assert remove_old_pixels(database, settings, later(6 * DAY)) == 0
    assert _files(tmp_path) == 3
    assert remove_old_pixels(database, settings, later(8 * DAY)) == 3
    assert _files(tmp_path) == 0
    assert remove_old_pixels(database, settings, later(9 * DAY)) == 0
    with database.read() as session:
        assert {row.removed_at for row in session.scalars(select(InstanceRow))} == {later(8 * DAY)}


def test_a_study_with_a_younger_series_keeps_all_its_pixels(
    database: Database, settings: Settings, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    _answered(database, settings, keeper, state="delivered")
    study = mr_instance(1).StudyInstanceUID
    keeper.keep(received(mr_instance(1, "late", StudyInstanceUID=study, PatientID="ID-a", Modality="CT")))
    settle_series(database, settings, later(5 * DAY))
    with database.write() as session:
        session.execute(update(StudyRow).values(state=StudyState.ANSWERED))
    events: list[AuditEvent] = []
    assert remove_old_pixels(database, settings, later(8 * DAY), events.append) == 0
    assert _files(tmp_path) == 4
    assert remove_old_pixels(database, settings, later(13 * DAY), events.append) == 4
    assert _files(tmp_path) == 0
    assert [event.subjects[0].id for event in events] == [study], "one event for the study"


def test_a_process_that_dies_while_it_deletes_is_followed_by_one_that_finishes(
    database: Database, settings: Settings, keeper: InstanceKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answered(database, settings, keeper, state="delivered")
    unlink, deleted = Path.unlink, []

    def dies_at_the_second(path: Path, missing_ok: bool = False) -> None:
        if deleted:
            raise KeyboardInterrupt  # nothing catches it
        deleted.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            remove_old_pixels(database, settings, later(8 * DAY))
    assert _files(tmp_path) == 2
    with database.read() as session:
        assert {row.removed_at for row in session.scalars(select(InstanceRow))} == {None}
    assert remove_old_pixels(database, settings, later(9 * DAY)) == 3
    assert _files(tmp_path) == 0


def test_earlier_versions_go_with_the_images_that_replaced_them(
    database: Database, settings: Settings, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    keeper.keep(received(mr_instance(1, PatientID="W")))
    _answered(database, settings, keeper, state="delivered")
    assert _files(tmp_path) == 4
    assert remove_old_pixels(database, settings, later(8 * DAY)) == 4
    assert _files(tmp_path) == 0
    with database.read() as session:
        assert session.scalars(select(EarlierVersionRow)).one().removed_at == later(8 * DAY)
        assert kept_files(session) == [("objects/r", "00" * 32)]


@pytest.mark.parametrize(
    "delivery",
    [
        {"state": "pending"},
        {"state": "failed"},
        {"state": "delivered", "commitment": "due"},
        {"state": "delivered", "commitment": "requested"},
    ],
)
def test_pixels_stay_until_the_result_is_where_it_belongs(
    database: Database, settings: Settings, keeper: InstanceKeeper, tmp_path: Path, delivery: dict[str, Any]
) -> None:
    _answered(database, settings, keeper, **delivery)
    assert remove_old_pixels(database, settings, later(8 * DAY)) == 0
    assert _files(tmp_path) == 3


def test_nothing_is_deleted_unless_asked_for(
    database: Database, settings: Settings, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    _answered(database, settings, keeper, state="delivered")
    keep = settings.model_copy(update={"retention": RetentionSection()})
    assert remove_old_pixels(database, keep, later(9999 * DAY)) == 0
    assert _files(tmp_path) == 3


def test_a_removed_instance_that_comes_again_is_stored_again(
    database: Database, settings: Settings, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    _answered(database, settings, keeper, state="delivered")
    remove_old_pixels(database, settings, later(8 * DAY))
    outcomes = [keeper.keep(received(mr_instance(number))) for number in (1, 2, 3)]
    assert outcomes == [StoreOutcome.STORED] * 3
    assert keeper.keep(received(mr_instance(1))) is StoreOutcome.REPEATED
    assert _files(tmp_path) == 3


def test_a_late_slice_of_a_series_without_pixels_is_refused_with_the_reason(
    database: Database, settings: Settings, keeper: InstanceKeeper
) -> None:
    _answered(database, settings, keeper, state="delivered")
    remove_old_pixels(database, settings, later(8 * DAY))
    keeper.keep(received(mr_instance(4)))
    settle_series(database, settings, later(9 * DAY))
    with database.read() as session:
        [series] = session.scalars(select(SeriesRow))
    assert (series.state, series.reason) == (SeriesState.REFUSED, "pixels-removed")
