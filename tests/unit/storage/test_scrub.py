from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from tests.testbed.instances import CONTENT, NOON, new_instance
from worker.audit.messages import AuditEvent
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_instance, file_fault_counts, scrub_position
from worker.db.tables import FileFault, FileFaultRow, FileKind
from worker.storage.scrub import Scrub

FILES = 250  # more than two batches
LAST = f"instances/a/{FILES}.dcm"


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stored(database: Database, tmp_path: Path) -> Database:
    (tmp_path / "instances" / "a").mkdir(parents=True)
    with database.write() as session:
        for number in range(1, FILES + 1):
            new = new_instance(number)
            add_instance(session, new, NOON)
            (tmp_path / new.path).write_bytes(CONTENT)
    return database


def _scrub(database: Database, tmp_path: Path, clock: Clock, rate: int = 1 << 30, record: Any = None) -> Scrub:
    settings = Settings.model_validate(
        {"worker": {"data_dir": tmp_path}, "retention": {"scrub_bytes_per_second": rate}}
    )
    return Scrub(settings, database, clock, record or (lambda _event: None))


def _faults(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {row.path: row.fault for row in session.scalars(select(FileFaultRow))}


def test_rot_is_found_before_anybody_asks_and_healing_too(stored: Database, tmp_path: Path, clock: Clock) -> None:
    audited: list[AuditEvent] = []
    (tmp_path / "instances/a/7.dcm").write_bytes(b"y")
    (tmp_path / "instances/a/120.dcm").write_bytes(b"")
    (tmp_path / LAST).unlink()
    scrub = _scrub(stored, tmp_path, clock, record=audited.append)
    assert scrub.run() == FILES
    assert _faults(stored) == {
        "instances/a/7.dcm": "damaged", "instances/a/120.dcm": "damaged", LAST: "missing",
    }  # fmt: skip
    assert len(audited) == 3
    assert scrub.run() == 0  # until tomorrow
    (tmp_path / "instances/a/7.dcm").write_bytes(CONTENT)
    clock.now += timedelta(days=1)
    assert scrub.run() == FILES
    with stored.read() as session:
        assert file_fault_counts(session) == {FileFault.DAMAGED: 1, FileFault.MISSING: 1}
    assert len(audited) == 3


def test_a_pass_reads_no_faster_than_it_is_told_and_a_restart_goes_on(
    stored: Database, tmp_path: Path, clock: Clock
) -> None:
    compared = []
    scrub = _scrub(stored, tmp_path, clock, rate=1 << 20)  # a file counts as 16 KiB at least: 64 a second
    for _ in range(3):
        compared.append(scrub.run())
        clock.now += timedelta(seconds=31)
    assert compared == [64, 64, 64]
    with stored.read() as session:
        assert scrub_position(session, FileKind.INSTANCE)[0] == 100  # a whole batch
    assert _scrub(stored, tmp_path, clock).run() == FILES - 100
    assert _scrub(stored, tmp_path, clock).run() == 0


def test_a_large_file_is_read_over_many_seconds(database: Database, tmp_path: Path, clock: Clock) -> None:
    with database.write() as session:
        add_instance(session, new_instance(1, size=20 << 20), NOON)
    (tmp_path / "instances" / "a").mkdir(parents=True)
    (tmp_path / "instances/a/1.dcm").write_bytes(bytes(20 << 20))
    scrub = _scrub(database, tmp_path, clock, rate=4 << 20)
    assert [scrub.run() for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    assert _faults(database) == {"instances/a/1.dcm": "damaged"}


def test_a_disk_that_is_away_is_no_rot(stored: Database, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "instances").rename(tmp_path / "away")
    assert _scrub(stored, tmp_path, clock).run() == 0
    assert _faults(stored) == {}


def test_nothing_is_read_where_the_rate_is_0(stored: Database, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / LAST).unlink()
    assert _scrub(stored, tmp_path, clock, rate=0).run() == 0
    with stored.read() as session:
        assert session.scalar(select(func.count()).select_from(FileFaultRow)) == 0
