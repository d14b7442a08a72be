"""Connections and transactions of both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, literal, select, text

from tests.testbed.instances import later, new_instance
from worker.db.engine import Database, IntegrityError, client_address, is_any_of
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
