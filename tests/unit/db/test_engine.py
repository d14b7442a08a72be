"""Connections and transactions of both databases."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, literal, select, text

from tests.testbed.instances import later, new_instance
from worker.db import engine
from worker.db.engine import Database, IntegrityError, Rest, client_address, is_any_of
from worker.db.instances import add_instance
from worker.db.migrate import migrate
from worker.db.tables import REVISION, SeriesRow
from worker.errors import StartError


def _series(database: Database) -> int:
    with database.read() as session:
        return len(session.scalars(select(SeriesRow)).all())


def test_a_write_commits_at_its_end_or_rolls_back_entirely(database: Database) -> None:
    with database.write() as session:
        add_instance(session, new_instance(1, "a"), later(0))
    with pytest.raises(RuntimeError), database.write() as session:  # noqa: PT012 - the transaction is what is tested
        add_instance(session, new_instance(1, "b"), later(0))
        raise RuntimeError
    with pytest.raises(IntegrityError), database.write() as session:  # noqa: PT012
        add_instance(session, new_instance(1, "c"), later(0))
        session.execute(text("UPDATE series SET state = 'lost'"))
    assert _series(database) == 1


def test_a_core_connection_is_a_transaction_too(database: Database) -> None:
    with pytest.raises(RuntimeError), database.begin() as connection:  # noqa: PT012
        connection.execute(text("DELETE FROM alembic_version"))
        raise RuntimeError
    assert database.revision() == REVISION


def test_a_read_keeps_no_writer_waiting(database: Database) -> None:
    with database.read() as reading:
        assert reading.scalars(select(SeriesRow)).all() == []
        writer = threading.Thread(target=_write, args=(database,))
        writer.start()
        writer.join(timeout=60)
        assert not writer.is_alive()


def _write(database: Database) -> None:
    with database.write() as session:
        add_instance(session, new_instance(), later(0))


def test_rows_stay_usable_after_their_session(database: Database) -> None:
    with database.write() as session:
        row = add_instance(session, new_instance(), later(0))
    assert row.received_at == later(0)


def test_sqlite_is_asked_by_the_connection_that_has_its_pages(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    with database.read() as one, database.read() as other:
        one.execute(text("SELECT 1"))
        other.execute(text("SELECT 1"))
    used = set()
    for _ in range(4):
        with database.begin() as connection:
            used.add(id(connection.connection.dbapi_connection))
    database.close()
    assert len(used) == 1


def test_who_shares_it(database: Database) -> None:
    assert database.is_shared == (database.engine.dialect.name == "postgresql")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_time_of_the_server_is_aware(database: Database) -> None:
    assert abs(database.server_time() - datetime.now(UTC)) < timedelta(minutes=10)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_an_exported_snapshot_shows_what_its_reader_sees(database: Database) -> None:
    with database.read_exported() as (session, snapshot):
        assert session.scalars(select(SeriesRow)).all() == []
        _write(database)
        assert session.scalars(select(SeriesRow)).all() == []
        with database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as other:
            other.execute(text(f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
            assert other.scalar(text("SELECT count(*) FROM series")) == 0


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "sqlite+nonsense:///x"])
def test_a_url_of_no_supported_database_cannot_start(url: str) -> None:
    with pytest.raises(StartError, match="database-url"):
        Database(url)


def test_a_folder_that_cannot_be_made_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    database = Database(f"sqlite:///{tmp_path / 'file' / 'worker.db'}")
    with pytest.raises(StartError, match="database-url"):
        migrate(database)
    database.close()


@pytest.mark.parametrize("url", ["postgresql+psycopg://nobody@127.0.0.1:1/none", "sqlite:///{folder}"])
def test_an_unreachable_database_is_a_fault_in_a_line(url: str, tmp_path: Path) -> None:
    database = Database(url.format(folder=tmp_path))  # a folder is no database file
    with pytest.raises(StartError, match="database-unreachable") as fault:
        database.revision()
    database.close()
    assert "\n" not in fault.value.detail


def test_the_password_is_apart_from_the_address() -> None:
    url = "postgresql+psycopg://ada:secret@db.example:5433/worker"
    assert client_address(url) == ("postgresql://ada@db.example:5433/worker", "secret")
    assert client_address("postgresql+psycopg://ada@db/worker") == ("postgresql://ada@db/worker", None)


def test_a_column_is_compared_with_many_values_in_a_single_parameter(database: Database) -> None:
    queries: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: queries.append(call[2]))
    with database.read() as session:
        names, numbers = [f'it\'s "{number}" \u00e4' for number in range(3000)], range(3000)

        def found(column: Any, values: Any) -> int:
            row = select(column).subquery()
            return len(session.execute(select(row).where(is_any_of(session, row.c[0], values))).all())

        assert found(literal(names[7]).label("name"), names) == 1
        assert found(literal("7").label("name"), names) == 0
        assert found(literal(7).label("number"), numbers) == 1
        assert found(literal(7).label("number"), []) == 0
    assert all(len(query) < 500 for query in queries)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A SQLite database."""
    file = tmp_path / "worker.db"
    database = Database(f"sqlite:///{file}")
    migrate(database)
    database.close()
    return file


class Loop:
    """Polls a database through its rest: `waits` is what the rows say, `asked` how often they were looked at."""

    def __init__(self, file: Path) -> None:
        self.database, self.waits, self.asked = Database(f"sqlite:///{file}"), False, 0
        self.rest = Rest(self.database, self._waits)

    def _waits(self, _session: Any) -> bool:
        self.asked += 1
        return self.waits

    def turn(self) -> bool:
        """A turn of the loop, whose poll finds nothing; whether it polled."""
        polls = self.rest.is_over()
        if polls:
            self.rest.begin()
        return polls


def test_a_loop_rests_until_anything_is_committed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_REST_SECONDS", 1000)
    monkeypatch.setattr(engine, "_POLL_SECONDS", 0)
    loop, other = Loop(file), Database(f"sqlite:///{file}")
    assert [loop.turn() for _ in range(4)] == [True, False, False, False]
    with other.write() as session:
        add_instance(session, new_instance(), later(0))
        assert not loop.turn()  # it is not committed yet
    assert [loop.turn() for _ in range(3)] == [True, False, False]
    _change(loop.database, "committed by another thread of this process")
    assert loop.rest.is_over()
    _change(other, "committed while it polls")
    loop.rest.begin()
    assert [loop.turn() for _ in range(3)] == [True, False, False]
    with pytest.raises(RuntimeError), other.write() as session:  # noqa: PT012
        session.execute(text("DELETE FROM instance"))
        raise RuntimeError
    assert not loop.turn()
    with closing(other.engine.raw_connection()) as connection:  # the loop keeps no transaction open
        [(busy, *_)] = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert busy == 0


def test_a_loop_whose_connection_fails_polls_by_another(file: Path) -> None:
    loop = Loop(file)
    assert [loop.turn() for _ in range(2)] == [True, False]
    assert loop.rest._connection is not None
    loop.rest._connection.cursor().connection.close()
    with pytest.raises(sqlite3.Error):
        loop.turn()
    assert [loop.turn() for _ in range(2)] == [True, False]
    loop.rest.close()


def _change(database: Database, description: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE series SET series_description = :text"), {"text": description})


def test_a_loop_that_finds_something_goes_on_polling(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_REST_SECONDS", 1000)
    loop = Loop(file)
    assert [loop.rest.is_over() for _ in range(3)] == [True, True, True]


def test_a_loop_does_not_rest_while_rows_wait_for_a_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_REST_SECONDS", 1000)
    loop = Loop(file)
    loop.waits = True
    assert [loop.turn() for _ in range(5)] == [True] * 5
    assert loop.rest.poll_seconds == engine._POLL_SECONDS
    assert loop.asked == 1  # what waits does not end without a commit
    loop.waits = False
    _write(loop.database)
    assert [loop.turn() for _ in range(3)] == [True, False, False]


def test_a_loop_that_rests_looks_often_and_polls_seldom_while_others_commit(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_POLL_SECONDS", 0.5)
    loop = Loop(file)
    start, polls, looks = time.monotonic(), 0, 0
    while time.monotonic() < start + 1.2:
        _change(loop.database, f"commit {looks}")
        polls += loop.turn()
        looks += 1
        assert loop.rest.poll_seconds == engine._SKIPPED_POLL_SECONDS
    assert looks > 3
    assert polls <= 3


def test_a_loop_polls_now_and_then_whatever_happens_to_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_REST_SECONDS", 0.2)
    loop, restored = Loop(file), file.with_name("restored.db")
    database = Database(f"sqlite:///{restored}")
    migrate(database)
    database.close()
    assert loop.turn()
    os.replace(restored, file)
    deadline = time.monotonic() + 60
    while not loop.rest.is_over():
        assert time.monotonic() < deadline


def test_a_loop_never_rests_on_a_server(database: Database) -> None:
    rest = Rest(database, lambda _session: False)
    turns = []
    for _ in range(2):
        turns.append(rest.is_over())
        rest.begin()
    assert turns == ([True, True] if database.is_shared else [True, False])
