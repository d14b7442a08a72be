"""Our reports, pictures and key objects come back from the PACS that has the study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import func, select

from tests.testbed.answered import answer
from tests.testbed.instances import NOON, mr_instance, received
from worker.db.engine import Database
from worker.db.tables import ConflictRow, InstanceRow
from worker.db.views.archive import match_instances, match_series
from worker.db.views.archive_matching import Keys
from worker.dicom import standard
from worker.dicom.standard import derive_uid
from worker.errors import RefusedInstance
from worker.receive.commitment_scp import examine
from worker.send.storage_scu import as_comprehensive
from worker.storage.acceptance import PRODUCED_KEY
from worker.storage.integrity import Integrity
from worker.storage.keeper import InstanceKeeper, StoreOutcome


@pytest.fixture
def keeper(database: Database, tmp_path: Path) -> Iterator[InstanceKeeper]:
    keeper = InstanceKeeper(database, tmp_path, lambda: NOON, minimum_free_bytes=0)
    yield keeper
    keeper.close()


@pytest.fixture
def produced(database: Database, tmp_path: Path) -> list[Dataset]:
    """A report, a picture and key objects, as they were sent."""
    objects = answer(database, tmp_path, key_objects_to=("pacs",))
    return [dcmread(tmp_path / new.path) for new in objects]


def _received(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(InstanceRow)) or 0


def test_what_comes_back_is_not_stored_and_is_listed_once(
    database: Database, keeper: InstanceKeeper, produced: list[Dataset]
) -> None:
    assert len(produced) == 3
    assert [keeper.keep(received(ds)) for ds in produced] == [StoreOutcome.REPEATED] * 3
    assert _received(database) == 1  # the image
    with database.read() as session:
        listed = [row.sop_instance_uid for row in match_instances(session, Keys())]
        series = [row.series_instance_uid for row in match_series(session, Keys())]
        assert session.scalars(select(ConflictRow)).all() == []
    assert len(listed) == len(set(listed)) == 4
    assert len(series) == len(set(series)) == 4


def test_what_the_pacs_has_changed_is_still_ours(
    database: Database, keeper: InstanceKeeper, produced: list[Dataset]
) -> None:
    for ds in produced:
        ds.PatientName, ds.StudyInstanceUID = "Corrected^Name", derive_uid("another study")
        assert keeper.keep(received(ds)) is StoreOutcome.REPEATED
        del ds.ManufacturerModelName
        assert keeper.keep(received(ds)) is StoreOutcome.REPEATED
    assert _received(database) == 1


def test_the_comprehensive_sr_of_a_report_is_the_report(
    database: Database, keeper: InstanceKeeper, produced: list[Dataset]
) -> None:
    assert keeper.keep(received(as_comprehensive(produced[0]))) is StoreOutcome.REPEATED
    assert _received(database) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_another_picture_under_the_uid_of_an_object_is_refused(
    database: Database, keeper: InstanceKeeper, produced: list[Dataset], number: int
) -> None:
    other = mr_instance(SOPInstanceUID=produced[number].SOPInstanceUID, SOPClassUID=produced[1].SOPClassUID)
    with pytest.raises(RefusedInstance) as refused:
        keeper.keep(received(other))
    assert (refused.value.status, refused.value.reason) == (0x0111, "uid-of-produced")
    assert _received(database) == 1


def test_the_object_of_another_worker_is_stored_and_marked(
    database: Database, keeper: InstanceKeeper, produced: list[Dataset]
) -> None:
    for number, ds in enumerate(produced):
        ds.SOPInstanceUID = derive_uid("another worker", str(number))
        ds.SeriesInstanceUID = derive_uid("another worker's series", str(number))
        assert keeper.keep(received(ds)) is StoreOutcome.STORED
    with database.read() as session:
        rows = session.scalars(select(InstanceRow).order_by(InstanceRow.id)).all()
        assert [row.attributes.get(PRODUCED_KEY) for row in rows] == [None, True, True, True]


def test_storage_commitment_covers_what_came_back(database: Database, tmp_path: Path, produced: list[Dataset]) -> None:
    asked = [(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in produced]
    integrity = Integrity(database, tmp_path, lambda: NOON)
    report = examine(database, integrity, "1.2.3", [*asked, (standard.COMPREHENSIVE_SR, asked[0][1])])
    assert len(report.ReferencedSOPSequence) == 3
    assert [item.FailureReason for item in report.FailedSOPSequence] == [0x0119]
