from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed.instances import Clock
from worker.audit import events
from worker.audit.recorder import recording, trail_of
from worker.audit.verify import TrailEntry, newest_entries, verify_trails
from worker.config.sections import AuditSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database, DatabaseError

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(worker=WorkerSection(data_dir=tmp_path / "data"), audit=AuditSection(source="here"))


def _record(settings: Settings, database: Database, number: int = 1) -> None:
    with recording(settings, database, Clock()) as record:
        for _ in range(number):
            record(events.started("receive", "host:1"))


def test_the_trail_of_another_host_beside_ours_is_verified_too(database: Database, settings: Settings) -> None:
    _record(settings, database, 2)
    other = settings.model_copy(update={"audit": AuditSection(source="other host")})
    _record(other, database, 1)
    assert [(verdict.host, verdict.records, verdict.fault) for verdict in verify_trails(settings, database)] == [
        ("here", 2, None),
        ("other_host", 1, None),
    ]


def test_a_broken_trail_is_a_verdict_with_the_position(database: Database, settings: Settings) -> None:
    _record(settings, database, 3)
    [file] = trail_of(settings).files()
    file.write_bytes(file.read_bytes().replace(b"host:1", b"host:2", 1))
    [verdict] = verify_trails(settings, database)
    assert (verdict.records, verdict.anchored) == (3, 3)
    assert verdict.fault is not None
    assert "record 1 was edited" in verdict.fault


def test_a_host_without_a_trail_has_no_records(database: Database, settings: Settings) -> None:
    [verdict] = verify_trails(settings, database)
    assert (verdict.records, verdict.first, verdict.last, verdict.anchored, verdict.fault) == (0, None, None, 0, None)


def test_without_its_tables_nothing_is_verified(database: Database, settings: Settings, tmp_path: Path) -> None:
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(DatabaseError):
        verify_trails(settings, empty)
    empty.close()


def test_entries_say_who_did_what_newest_first(database: Database, settings: Settings) -> None:
    transferred = events.Transferred("1.2.3", "P-1", {"1.2.840.10008.5.1.4.1.1.4": 24})
    with recording(settings, database, Clock()) as record:
        record(events.received("PACS", "10.0.0.1", "AI_WORKER", transferred))
        record(events.access_denied("unknown", "10.0.0.9", "/api/v1/results", "wrong"))
    denied, received = newest_entries(settings, 5)
    assert (denied.number, denied.outcome, denied.who) == (2, "failed: wrong", "unknown (10.0.0.9)")
    assert denied.event == "User Authentication: Login"
    assert received.who == "PACS (10.0.0.1) → AI_WORKER"
    assert received.what == "1.2.3 [24 instances]"
    assert [entry.number for entry in newest_entries(settings, 1)] == [2]
    assert [entry.number for entry in newest_entries(settings, 5, before=2)] == [1]


def test_a_message_that_is_no_xml_is_shown_as_unreadable(database: Database, settings: Settings) -> None:
    trail_of(settings).append(["<AuditMessage broken"])
    assert newest_entries(settings, 1) == [TrailEntry(1, "", "unreadable", "", "", "")]
