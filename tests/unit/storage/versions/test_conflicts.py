from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.testbed.instances import NOON, encoded, later, mr_instance, received
from worker.audit.messages import AuditEvent
from worker.config.sections import WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import kept_files
from worker.db.tables import ConflictRow, EarlierVersionRow, InstanceRow, SeriesRow
from worker.db.views.conflicts import count_conflicts
from worker.storage.keeper import InstanceKeeper
from worker.storage.pending import StoreOutcome
from worker.storage.versions.conflicts import Conflicts, NoSuchConflict, UnusableConflict

FIRST, OTHER = mr_instance(), mr_instance(PatientID="R1", SeriesInstanceUID="1.2.3", PixelData=bytes(512))


@pytest.fixture
def keeper(database: Database, tmp_path: Path) -> Iterator[InstanceKeeper]:
    """It has set OTHER aside."""
    keeper = InstanceKeeper(database, tmp_path, lambda: NOON, 0)
    assert keeper.keep(received(FIRST)) is StoreOutcome.STORED
    assert keeper.keep(received(OTHER)) is StoreOutcome.CONFLICTING
    yield keeper
    keeper.close()


def _conflicts(database: Database, folder: Path) -> tuple[Conflicts, list[AuditEvent]]:
    audited: list[AuditEvent] = []
    return Conflicts(database, Settings(worker=WorkerSection(data_dir=folder)), audited.append), audited


def _contents(database: Database, folder: Path) -> dict[str, bytes]:
    """The files that rows name, by path; no other file is there."""
    with database.read() as session:
        contents = {path: (folder / path).read_bytes() for path, _ in kept_files(session)}
    assert {folder / path for path in contents} == set(folder.rglob("*.dcm"))
    return contents


def test_an_accepted_conflict_replaces_what_is_stored(
    database: Database, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    conflicts, audited = _conflicts(database, tmp_path)
    conflicts.accept(1, "ada", "10.0.0.1", later(5))
    with database.read() as session:
        row, earlier = session.scalars(select(InstanceRow)).one(), session.scalars(select(EarlierVersionRow)).one()
        series = session.get_one(SeriesRow, row.series_id)
        assert count_conflicts(session) == 0
    assert (series.series_instance_uid, series.patient_id, earlier.replaced_by) == ("1.2.3", "R1", "ada")
    contents = _contents(database, tmp_path)
    assert (contents[row.path], contents[earlier.path]) == (encoded(OTHER), encoded(FIRST))
    assert [event.participants[-1].user_id for event in audited] == ["ada", "ada"]
    assert keeper.keep(received(OTHER)) is StoreOutcome.REPEATED
    assert keeper.keep(received(FIRST)) is StoreOutcome.CONFLICTING
    with pytest.raises(NoSuchConflict):
        conflicts.accept(1, "ada", None, later(6))


def test_a_rejected_conflict_is_deleted_and_may_come_again(
    database: Database, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    conflicts, audited = _conflicts(database, tmp_path)
    conflicts.reject(1, "ada", None, later(5))
    [content] = _contents(database, tmp_path).values()
    assert content == encoded(FIRST)
    assert len(audited) == 1
    with pytest.raises(NoSuchConflict):
        conflicts.reject(1, "ada", None, later(5))
    assert keeper.keep(received(OTHER)) is StoreOutcome.CONFLICTING
    with database.read() as session:
        assert count_conflicts(session) == 1


def test_a_rejected_conflict_leaves_the_same_content_of_history(
    database: Database, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    conflicts, _ = _conflicts(database, tmp_path)
    conflicts.accept(1, "ada", None, later(5))
    for ds in (FIRST, OTHER):  # OTHER becomes an earlier version, and then a conflict again
        assert keeper.keep(received(ds)) is (StoreOutcome.CONFLICTING if ds is FIRST else StoreOutcome.REPEATED)
    with database.read() as session:
        [number] = session.scalars(select(ConflictRow.id).where(ConflictRow.decision.is_(None)))
    conflicts.accept(number, "ada", None, later(6))
    assert keeper.keep(received(OTHER)) is StoreOutcome.CONFLICTING
    with database.read() as session:
        [number] = session.scalars(select(ConflictRow.id).where(ConflictRow.decision.is_(None)))
    conflicts.reject(number, "ada", None, later(7))
    assert sorted(_contents(database, tmp_path).values()) == sorted([encoded(FIRST), encoded(FIRST), encoded(OTHER)])


@pytest.mark.parametrize("content", [None, b"rotten"])
def test_a_conflict_whose_file_is_faulty_is_not_accepted_but_rejected(
    database: Database, keeper: InstanceKeeper, tmp_path: Path, content: bytes | None
) -> None:
    [path] = (tmp_path / "conflicts").rglob("*.dcm")
    path.unlink() if content is None else path.write_bytes(content)
    conflicts, audited = _conflicts(database, tmp_path)
    with pytest.raises(UnusableConflict):
        conflicts.accept(1, "ada", None, later(5))
    assert audited == []
    conflicts.reject(1, "ada", None, later(5))
    assert len(_contents(database, tmp_path)) == 1
