"""An instance that comes again with other attributes corrects what is stored; with other pixels it waits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select

from tests.testbed.instances import NOON, encoded, mr_instance, received
from worker.audit.messages import AuditEvent
from worker.db.engine import Database
from worker.db.instances import kept_files
from worker.db.tables import ConflictRow, EarlierVersionRow, InstanceRow, SeriesRow
from worker.dicom.standard import derive_uid
from worker.storage.keeper import InstanceKeeper
from worker.storage.pending import StoreOutcome


class Site:
    def __init__(self, database: Database, data: Path) -> None:
        self.database, self.data, self.audited = database, data, list[AuditEvent]()
        self.keeper = InstanceKeeper(database, data, lambda: NOON, 0, record=self.audited.append)

    def keep(self, **changes: Any) -> StoreOutcome:
        return self.keeper.keep(received(mr_instance(**changes)))

    def rows(self, table: type[Any]) -> list[Any]:
        with self.database.read() as session:
            return list(session.scalars(select(table).order_by(table.id)))

    def content(self, row: Any) -> bytes:
        return (self.data / row.path).read_bytes()

    def files(self) -> set[Path]:
        return {path for path in self.data.rglob("*") if path.is_file()}

    def named(self) -> set[Path]:
        with self.database.read() as session:
            return {self.data / path for path, _ in kept_files(session)}


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    site = Site(database, tmp_path / "data")
    yield site
    site.keeper.close()


def _corrected(**changes: Any) -> Dataset:
    return mr_instance(**{"PatientName": "Right^One", "PatientID": "R1"} | changes)


def test_a_correction_replaces_the_rows_and_keeps_the_earlier_version(site: Site) -> None:
    site.keep()
    assert site.keeper.keep(received(_corrected())) is StoreOutcome.CORRECTED
    [row], [earlier], [series] = site.rows(InstanceRow), site.rows(EarlierVersionRow), site.rows(SeriesRow)
    assert site.content(row) == encoded(_corrected())
    assert site.content(earlier) == encoded(mr_instance())
    assert (earlier.instance_id, earlier.series_id, earlier.replaced_by) == (row.id, series.id, None)
    assert (series.patient_id, series.patient_name, series.corrections) == ("R1", "Right^One", 1)
    assert row.attributes["identity"]["patient"] == "R1"
    assert site.files() == site.named()
    [event] = site.audited
    assert "corrected" in (event.description or "")
    assert [subject.id for subject in event.subjects] == [derive_uid("study", "a"), "ID-a", "R1"]


def test_a_correction_that_comes_again_is_a_repetition(site: Site) -> None:
    site.keep()
    site.keeper.keep(received(_corrected()))
    assert site.keeper.keep(received(_corrected())) is StoreOutcome.REPEATED
    assert len(site.rows(EarlierVersionRow)) == len(site.audited) == 1


def test_a_correction_back_is_a_correction_with_its_own_history(site: Site) -> None:
    for ds in (mr_instance(), _corrected(), mr_instance(), _corrected()):
        site.keeper.keep(received(ds))
    [row] = site.rows(InstanceRow)
    assert site.content(row) == encoded(_corrected())
    assert [site.content(earlier) for earlier in site.rows(EarlierVersionRow)] == [
        encoded(ds) for ds in (mr_instance(), _corrected(), mr_instance())
    ]
    assert site.files() == site.named()
    assert len(site.files()) == 2


def test_an_instance_moves_to_another_series(site: Site) -> None:
    site.keep()
    site.keep(number=2)
    moved = {"SeriesInstanceUID": "1.2.9", "StudyInstanceUID": "1.2.8"}
    assert site.keep(**moved) is StoreOutcome.CORRECTED
    old, new = site.rows(SeriesRow)
    assert (new.series_instance_uid, new.study_instance_uid, new.state) == ("1.2.9", "1.2.8", "open")
    assert [row.series_id for row in site.rows(InstanceRow)] == [new.id, old.id]
    assert (old.state, old.corrections, new.corrections) == ("open", 1, 1)
    assert site.rows(EarlierVersionRow)[0].series_id == old.id


def test_other_pixels_wait_and_change_nothing(site: Site) -> None:
    site.keep()
    before = site.rows(SeriesRow)[0]
    other = {"PixelData": bytes(512), "PatientID": "R1"}
    assert [site.keep(**other) for _ in range(2)] == [StoreOutcome.CONFLICTING] * 2
    [row], [conflict] = site.rows(InstanceRow), site.rows(ConflictRow)
    assert site.content(row) == encoded(mr_instance())
    assert site.content(conflict) == encoded(mr_instance(**other))
    assert conflict.reason == "pixels"
    assert site.rows(EarlierVersionRow) == []
    after = site.rows(SeriesRow)[0]
    assert (after.patient_id, after.corrections) == (before.patient_id, 0)
    assert site.files() == site.named()


def test_what_an_earlier_worker_set_aside_is_taken_in_when_it_comes_again(site: Site) -> None:
    site.keep()
    site.keep(PixelData=bytes(512))
    [waiting] = site.rows(ConflictRow)
    corrected = received(_corrected())
    path = site.data / "conflicts" / "x.dcm"
    path.write_bytes(bytes(corrected.encoded))  # type: ignore[arg-type]
    with site.database.write() as session:
        row = session.scalars(select(InstanceRow)).one()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        session.add(ConflictRow(instance_id=row.id, path="conflicts/x.dcm", size=1, sha256=digest, received_at=NOON))
    assert site.keeper.keep(corrected) is StoreOutcome.CORRECTED
    assert [conflict.id for conflict in site.rows(ConflictRow) if not conflict.decision] == [waiting.id]
    assert site.files() == site.named()


def test_a_whole_series_is_corrected_by_many_at_once(site: Site) -> None:
    wrong = [received(mr_instance(number)) for number in range(1, 21)]
    right = [received(_corrected(number=number)) for number in range(1, 21)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(site.keeper.keep, wrong))
        outcomes = list(pool.map(site.keeper.keep, right * 2))
    assert sorted(outcomes) == [StoreOutcome.CORRECTED] * 20 + [StoreOutcome.REPEATED] * 20
    assert len(site.rows(EarlierVersionRow)) == 20
    [series] = site.rows(SeriesRow)
    assert series.patient_id == "R1"
    assert site.files() == site.named()


def test_a_damaged_stored_file_is_no_reason_to_believe_the_other(site: Site) -> None:
    site.keep()
    [row] = site.rows(InstanceRow)
    (site.data / row.path).write_bytes(b"rotten")
    assert site.keeper.keep(received(_corrected())) is StoreOutcome.CONFLICTING
    assert site.rows(ConflictRow)[0].reason == "not-comparable"
