"""Events become records on disk with their head in the database; what goes wrong is seen, and stops nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.testbed.instances import Clock, later
from worker.audit import events, verify
from worker.audit.recorder import Recorder, accept_head, anchored_head, audit_faults, recording, trail_of
from worker.audit.trail import TrailHead
from worker.config.sections import AuditSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database

MR = "1.2.840.10008.5.1.4.1.1.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
# The queries are the same everywhere; SQLite is enough for what is not about them.
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(worker=WorkerSection(data_dir=tmp_path / "data"), audit=AuditSection(source="here"))


def _record(settings: Settings, database: Database, number: int = 1) -> None:
    with recording(settings, database, Clock()) as record:
        for _ in range(number):
            record(events.started("receive", "host:1"))


def _faults(database: Database) -> list[str]:
    with database.read() as session:
        return audit_faults(session)


@on_sqlite
def test_what_is_recorded_is_verified_and_anchored(database: Database, settings: Settings) -> None:
    _record(settings, database, 3)
    _record(settings, database, 2)
    [verdict] = verify.verify_trails(settings, database)
    assert (verdict.host, verdict.records, verdict.anchored, verdict.fault) == ("here", 5, 5, None)
    assert verdict.first is not None
    assert [entry.number for entry in verify.newest_entries(settings, 2)] == [5, 4]
    entry = verify.newest_entries(settings, 1)[0]
    assert (entry.event, entry.outcome) == ("Application Activity: Application Start", "ok")


@on_sqlite
def test_several_threads_may_record(database: Database, settings: Settings) -> None:
    recorder = Recorder(settings, database, Clock())
    recorder.start()
    threads = [
        threading.Thread(target=lambda: [recorder.record(events.signed_in("a", "::1")) for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    assert verify.verify_trails(settings, database)[0].records == 80


@on_sqlite
def test_an_event_in_the_middle_of_being_written_is_no_fault(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, writing, go_on = Recorder(settings, database, Clock()), threading.Event(), threading.Event()
    append, sync = recorder._trail.append, recorder._trail.sync

    def slow_append(messages: Sequence[str]) -> TrailHead:
        writing.set()
        go_on.wait(30)
        return append(messages)

    def sync_beside_it() -> TrailHead:
        monkeypatch.setattr(recorder._trail, "append", slow_append)
        other.start()
        assert writing.wait(30)
        threading.Timer(0.2, go_on.set).start()
        return sync()

    recorder.record(events.started("receive", "host:1"))
    other = threading.Thread(target=recorder.record, args=(events.signed_in("a", "::1"),))
    monkeypatch.setattr(recorder._trail, "sync", sync_beside_it)
    recorder.settle()
    other.join()
    assert _faults(database) == []


@on_sqlite
@pytest.mark.parametrize("allowed", [False, True])
def test_a_patient_id_is_recorded_only_where_that_is_asked_for(
    database: Database, settings: Settings, allowed: bool
) -> None:
    settings = settings.model_copy(update={"audit": AuditSection(source="here", patient_ids=allowed)})
    with recording(settings, database, Clock()) as record:
        record(events.received("PACS", "::1", "AI", events.Transferred("1.2.3", "CANARY-ID", {MR: 3})))
    content = trail_of(settings).files()[0].read_text()
    assert ("CANARY-ID" in content) == allowed
    assert "1.2.3" in content


def test_a_truncated_trail_is_found_while_it_is_written_and_stays_found(database: Database, settings: Settings) -> None:
    _record(settings, database, 5)
    file = trail_of(settings).files()[0]
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))
    _record(settings, database, 4)  # as many records as before, and more: the number alone would not tell
    assert _faults(database) == ["trail-broken on here"]
    with database.read() as session:
        known = anchored_head(session, "here")
    assert known is not None
    assert known.number == 5
    assert verify.verify_trails(settings, database)[0].fault is not None
    with database.write() as session:
        accept_head(session, "here", trail_of(settings).sync(), later(0))
    assert _faults(database) == []
    assert verify.verify_trails(settings, database)[0].fault is None
    _record(settings, database)
    assert verify.verify_trails(settings, database)[0].anchored == 8


@on_sqlite
def test_a_folder_that_cannot_be_written_is_a_fault_and_loses_nothing_while_we_live(
    database: Database, settings: Settings
) -> None:
    settings.worker.data_dir.mkdir()
    settings.audit_dir.write_text("a file is in the way")  # root may write anywhere, but not here
    recorder = Recorder(settings, database, Clock())
    recorder.record(events.started("receive", "host:1"))
    recorder.record(events.stopped("receive", "host:1"))
    recorder.settle()
    assert _faults(database) == ["not-writable on here"]
    settings.audit_dir.unlink()
    recorder.settle()
    recorder.close()
    assert _faults(database) == []
    assert verify.verify_trails(settings, database)[0].records == 2


def test_a_lost_database_stops_no_record(settings: Settings, tmp_path: Path) -> None:
    empty = Database(f"sqlite:///{tmp_path}/empty.db")  # no table at all
    with recording(settings, empty, Clock()) as record:
        record(events.started("receive", "host:1"))
    assert trail_of(settings).verify(None).number == 1
    empty.close()


def test_a_database_row_that_is_gone_is_made_again(database: Database, settings: Settings) -> None:
    _record(settings, database, 2)
    with database.write() as session:
        session.execute(text("DELETE FROM audit_chain"))
    _record(settings, database)
    assert verify.verify_trails(settings, database)[0].anchored == 3
