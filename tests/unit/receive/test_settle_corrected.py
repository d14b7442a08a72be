"""Corrections that have reached only some images of a series: it waits for the others, and is then shown as refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select

from tests.testbed.instances import MODEL, NOON, later, mr_instance, received
from worker.config.sections import ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.models import model_row
from worker.db.settling import record_count
from worker.db.tables import JobRow, JobState, SeriesRow
from worker.receive.settle import check_corrected, settle_series
from worker.storage.keeper import InstanceKeeper

QUIET, EXTRA = 10, 60
RECEIVE = ReceiveSection(quiet_seconds=QUIET, incomplete_seconds=EXTRA)
SETTINGS = Settings(worker=WorkerSection(data_dir=Path("unused")), receive=RECEIVE)
IMAGES = (1, 2, 3, 4, 5, 6)


class Receiver:
    """Keeps images at a time, and settles at a time."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self._folder, self._now = database, folder, NOON
        with database.write() as session:
            model_row(session, MODEL, NOON)

    def keep(self, seconds: float, *images: Dataset) -> None:
        self._now = later(seconds)
        keeper = InstanceKeeper(self.database, self._folder, lambda: self._now, minimum_free_bytes=0)
        for image in images:
            keeper.keep(received(image))
        keeper.close()

    def settle(self, seconds: float, settings: Settings = SETTINGS) -> list[tuple[str, str | None]]:
        """The states and reasons of the series after settling at a time, in order of arrival."""
        settle_series(self.database, settings, later(seconds))
        with self.database.read() as session:
            return [(row.state, row.reason) for row in session.scalars(select(SeriesRow).order_by(SeriesRow.id))]

    def jobs(self) -> list[str]:
        with self.database.read() as session:
            return list(session.scalars(select(JobRow.state).order_by(JobRow.id)))


@pytest.fixture
def receiver(database: Database, tmp_path: Path) -> Receiver:
    """Six images of a series have settled."""
    receiver = Receiver(database, tmp_path)
    receiver.keep(0, *_images())
    assert receiver.settle(QUIET) == [("queued", None)]
    return receiver


def _images(*numbers: int, **changes: Any) -> list[Dataset]:
    return [mr_instance(number, **changes) for number in numbers or IMAGES]


@pytest.mark.parametrize(
    "change",
    [
        {"PatientName": "Right^Patient"},
        {"PatientID": "R1"},
        {"PatientName": "M\u00fcller^J\u00f6rg", "SpecificCharacterSet": "ISO_IR 192"},
        {"PatientBirthDate": "19710101"},
        {"PatientSex": None},
        {"AccessionNumber": "OTHER"},
        {"StudyDate": "20260302"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_half_a_correction_waits_is_refused_and_is_queued_once_it_is_whole(
    receiver: Receiver, change: dict[str, Any]
) -> None:
    receiver.keep(100, *_images(1, 2, 3, **change))
    assert receiver.settle(100 + QUIET + EXTRA - 1) == [("open", None)]
    reason = "mixed-patients" if "PatientID" in change else "partly-corrected"
    assert receiver.settle(100 + QUIET + EXTRA) == [("refused", reason)]
    receiver.keep(300, *_images(4, 5, 6, **change))
    assert receiver.settle(300 + QUIET) == [("queued", None)]
    assert receiver.jobs() == [JobState.SUPERSEDED, JobState.PENDING]


def test_the_refusal_counts_the_images_and_names_nobody(receiver: Receiver) -> None:
    receiver.keep(100, *_images(1, 2, PatientName="Right^Patient"))
    receiver.settle(100 + QUIET + EXTRA)
    with receiver.database.read() as session:
        detail = session.scalars(select(SeriesRow)).one().detail or ""
    assert "(images that agree: 4, 2)" in detail
    assert not {"Right", "Family"} & {word for part in detail.split() for word in part.split("^")}


def test_a_whole_correction_does_not_wait(receiver: Receiver) -> None:
    receiver.keep(100, *_images(PatientName="Right^Patient"))
    assert receiver.settle(100 + QUIET) == [("queued", None)]


def test_half_a_correction_that_is_taken_back_is_queued(receiver: Receiver) -> None:
    receiver.keep(100, *_images(1, 2, 3, PatientName="Right^Patient"))
    receiver.settle(200)
    receiver.keep(300, *_images(1, 2, 3))
    assert receiver.settle(300 + QUIET) == [("queued", None)]


def test_a_second_correction_of_a_half_is_told_from_the_first(receiver: Receiver) -> None:
    receiver.keep(100, *_images(PatientName="Right^Patient"))
    receiver.settle(100 + QUIET)
    receiver.keep(200, *_images(4, 5, 6, PatientName="Other^Patient"))
    assert receiver.settle(200 + QUIET + EXTRA) == [("refused", "partly-corrected")]


def test_images_that_never_agreed_and_other_attributes_are_no_half_of_a_correction(
    database: Database, tmp_path: Path
) -> None:
    receiver = Receiver(database, tmp_path)
    receiver.keep(0, *_images(1, 2, 3), *_images(4, 5, 6, PatientName="FAMILY^A^"), mr_instance(7, PatientName="F^A"))
    assert receiver.settle(QUIET) == [("queued", None)]
    receiver.keep(100, *_images(1, 2, SeriesDescription="t1 se"), *_images(3, PatientName="Family^a"))
    assert receiver.settle(100 + QUIET) == [("queued", None)]


def test_half_of_a_move_holds_both_series(receiver: Receiver) -> None:
    receiver.keep(100, *_images(1, 2, 3, SeriesInstanceUID="1.2.3"))
    assert receiver.settle(100 + QUIET + EXTRA - 1) == [("open", None), ("open", None)]
    receiver.keep(150, *_images(4, 5, 6, SeriesInstanceUID="1.2.3"))
    assert receiver.settle(150 + QUIET) == [("refused", "moved"), ("queued", None)]
    assert receiver.jobs() == [JobState.SUPERSEDED, JobState.PENDING]


def test_the_senders_count_does_not_make_half_a_correction_whole(receiver: Receiver) -> None:
    at_once = SETTINGS.model_copy(update={"receive": RECEIVE.model_copy(update={"settle_on_count": True})})
    receiver.keep(100, *_images(1, 2, 3, PatientName="Right^Patient"))
    with receiver.database.write() as session:
        record_count(session, 1, later(101), len(IMAGES))
    assert receiver.settle(105, at_once) == [("open", None)]


def test_an_image_of_an_earlier_worker_is_not_compared() -> None:
    earlier = {"patient": "A", "study": "1.2"}
    now = {1: earlier | {"person": "x"}, 2: earlier}
    assert check_corrected(now, {1: [earlier]}) is None
