"""The database: connections and transactions.

A writing transaction on SQLite begins with BEGIN IMMEDIATE, so it never fails midway because it could not get the write
lock; on PostgreSQL each row that two processes may claim is locked by itself.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    any_,
    cast,
    create_engine,
    event,
    func,
    inspect,
    literal,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DatabaseError as DriverError
from sqlalchemy.exc import DataError, DisconnectionError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import PoolProxiedConnection

from worker.config.paths import sqlite_path
from worker.db.tables import REVISION
from worker.errors import StartError

# What the packages above need of SQLAlchemy, which they do not import: every query is in `db`, or in `audit`.
__all__ = [
    "Connection", "Database", "DatabaseError", "IntegrityError", "Rest", "Session", "client_address",
    "is_invalid_value", "is_out_of_space", "is_unavailable",
]  # fmt: skip

DatabaseError = SQLAlchemyError

_LOCK_WAIT_SECONDS = 30.0
_REST_SECONDS = 1.0
_POLL_SECONDS = 0.1
_SKIPPED_POLL_SECONDS = 0.03
# A host that is cut off must notice within half a minute, and so must the server, which holds the host's locks until
# it does.
_CONNECTION = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_CONNECTION |= {"tcp_user_timeout": 30_000}
_SERVER_SIDE: dict[str, float] = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
_SERVER_SIDE |= {"tcp_user_timeout": 30_000, "idle_in_transaction_session_timeout": 300_000, "lock_timeout": 30_000}
# The default, 4, suits hard disks: with it PostgreSQL reads a whole table rather than look up 2,000 rows by an index.
_SERVER_SIDE |= {"random_page_cost": 1.1}


class Database:
    """The database: `read()` and `write()` give sessions; a `write()` commits at its end or rolls back entirely."""

    def __init__(self, url: str, pseudonym: Callable[[str], str] | None = None) -> None:
        """Connect at first use. Raises StartError for a URL of a database that is not supported.

        `pseudonym` replaces a patient's identifiers, in rows that are written and in keys that are searched for.
        """
        self.pseudonym = pseudonym
        self._file = file = sqlite_path(url)
        try:
            if file is not None:
                # The connection used last: SQLite reads all pages anew where another connection has written since.
                self.engine = create_engine(url, pool_use_lifo=True, connect_args={"timeout": _LOCK_WAIT_SECONDS})
                event.listen(self.engine, "do_connect", partial(_make_folder, file))
                event.listen(self.engine, "connect", _prepare_sqlite)
                event.listen(self.engine, "begin", _begin_sqlite)
            else:
                self.engine = create_engine(url, pool_pre_ping=True, connect_args=_CONNECTION)
                event.listen(self.engine, "connect", _prepare_postgresql)
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise StartError("database-url", f"[database] url: {error}") from None
        self._reader = self.engine.execution_options(read_only=True)

    @property
    def is_shared(self) -> bool:
        """Whether several hosts may use the database; an SQLite file belongs to a single host."""
        return self.engine.dialect.name != "sqlite"

    @contextmanager
    def write(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def begin(self) -> AbstractContextManager[Connection]:
        """Like `write`, but a Core connection: creating an ORM session costs half of a short transaction."""
        return self.engine.begin()

    @contextmanager
    def read(self) -> Iterator[Session]:
        info = {"pseudonym": self.pseudonym}
        with Session(self._reader, expire_on_commit=False, info=info) as session, session.begin():
            yield session

    @contextmanager
    def read_exported(self) -> Iterator[tuple[Session, str]]:
        """A session of PostgreSQL and the identifier of its snapshot, with which `pg_dump` sees the same rows."""
        with (
            self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
            Session(connection) as session,
        ):
            yield session, str(session.scalar(text("SELECT pg_export_snapshot()")))

    def new_connection(self) -> PoolProxiedConnection | None:
        """A connection to the SQLite file that the caller closes; None on PostgreSQL."""
        if self._file is None:
            return None
        connection = self.engine.raw_connection()
        connection.detach()  # the pool would give it to others
        return connection

    def server_time(self) -> datetime:
        """The time of PostgreSQL's host, aware."""
        with self.engine.connect() as connection:
            answer: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return answer

    def revision(self) -> str | None:
        """The schema revision, None for an empty database. Raises StartError when the database is unreachable.

        A file of SQLite that does not exist is an empty database, and is not created.
        """
        if self._file is not None and not self._file.exists():
            return None
        try:
            with self._reader.connect() as connection:
                if not inspect(connection).has_table("alembic_version"):
                    return None
                revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
                return revision
        except SQLAlchemyError as error:
            raise StartError(
                "database-unreachable", f"the database cannot be opened: {database_fault(error)}"
            ) from None

    def require_revision(self) -> None:
        """Raises StartError unless the schema has exactly the revision of this worker."""
        revision = self.revision()
        if revision is not None and revision > REVISION:
            raise StartError(
                "database-newer",
                f"the database is at revision {revision}, this worker knows up to {REVISION}: install a newer worker",
            )
        if revision is None:
            where = f" {self._file}" if self._file is not None else ""
            raise StartError(
                "database-empty", f"there is no database{where} yet: run `worker serve` or `worker migrate`"
            )
        if revision != REVISION:
            raise StartError("database-older", f"the database is at revision {revision}: run `worker migrate`")

    def close(self) -> None:
        self.engine.dispose()


class Rest:
    """Lets a loop skip polls that would find nothing: there was no commit, and no row becomes due by time alone.

    `waits`: whether there are rows that may become due by time alone. On PostgreSQL no poll is skipped. On SQLite at
    least one poll a second is made, so a change that is not noticed (a file moved to the database's path) delays work
    by a second at most. After a poll that found nothing, the next that a commit leads to is a tenth of a second later
    at the earliest. Used, and closed, by a single thread.
    """

    def __init__(self, database: Database, waits: Callable[[Session], bool]) -> None:
        self._database, self._waits = database, waits
        self._connection: PoolProxiedConnection | None = None
        self._version: int | None = None  # before the last poll: what is committed during it leads to another
        self._waiting_at: int | None = None  # the version whose rows wait for a time
        self._until = -math.inf
        self._earliest = -math.inf  # until then, commits lead to no poll

    def is_over(self) -> bool:
        """Whether to poll now; call it before each poll. Raises sqlite3.Error."""
        version = self._read_version()
        if version is not None and time.monotonic() < (self._until if version == self._version else self._earliest):
            return False
        self._version, self._until, self._earliest = version, -math.inf, -math.inf
        return True

    @property
    def poll_seconds(self) -> float:
        """How long to wait before the next `is_over`; shorter while polls are skipped, as it then costs little."""
        return _POLL_SECONDS if self._until == -math.inf else _SKIPPED_POLL_SECONDS

    def begin(self) -> None:
        """Rest from now on, if possible: the poll found nothing. Raises DatabaseError."""
        if self._version is None or self._version == self._waiting_at:
            return
        with self._database.read() as session:
            if self._waits(session):
                self._waiting_at = self._version
                return
        now = time.monotonic()
        self._until, self._earliest = now + _REST_SECONDS, now + _POLL_SECONDS

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._version = self._waiting_at = None  # another connection counts anew
        self._until = self._earliest = -math.inf
        if connection is not None:
            connection.close()

    def _read_version(self) -> int | None:
        """A number that changes with any commit to the file, by any process; None on PostgreSQL.

        Nothing else uses its connection, whose own commits do not count.
        Source: https://www.sqlite.org/pragma.html#pragma_data_version
        """
        try:
            self._connection = self._connection or self._database.new_connection()
            if self._connection is None:
                return None
            cursor = self._connection.cursor()
            cursor.execute("PRAGMA data_version")
            [(version,)] = cursor.fetchall()  # all: a statement that has not ended keeps the version that it began with
        except BaseException:
            self.close()
            raise
        return int(version)


def database_fault(error: SQLAlchemyError) -> str:
    """The first line of what the database itself says."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def is_unavailable(error: SQLAlchemyError) -> bool:
    """Whether the database could not be asked, or could not answer now; False for a fault of the query or its values.

    SQLite raises OperationalError for both, with SQLITE_ERROR for the latter. A bare DatabaseError: a damaged file.
    """
    if isinstance(error, OperationalError):
        return getattr(error.orig, "sqlite_errorname", None) != "SQLITE_ERROR"
    is_cut = getattr(error, "connection_invalidated", False)
    return isinstance(error, PoolTimeout | DisconnectionError) or type(error) is DriverError or bool(is_cut)


def is_invalid_value(error: SQLAlchemyError) -> bool:
    """Whether a value cannot be stored: it contains NUL, or is out of range."""
    return isinstance(error, DataError)


def is_out_of_space(error: SQLAlchemyError) -> bool:
    """Whether the disk of the database is full: SQLITE_FULL, or SQLSTATE 53100 of PostgreSQL."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlite_errorname", None) == "SQLITE_FULL" or getattr(cause, "sqlstate", None) == "53100"


def client_address(url: str) -> tuple[str, str | None]:
    """(connection URI without its password, password) as PostgreSQL's own programs take them."""
    address = make_url(url).set(drivername="postgresql")
    return address._replace(password=None).render_as_string(), str(address.password) if address.password else None


def _make_folder(file: Path, *_connection: Any) -> None:
    """Make the folder of a SQLite file before it is opened. Raises StartError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError("database-url", f"[database] url: {file.parent} cannot be made: {error.strerror}") from None


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # _begin_sqlite issues BEGIN
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        for name, value in _SERVER_SIDE.items():
            cursor.execute(f"SET {name} = {value}")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def upsert(connection: Connection) -> Any:
    """The INSERT of the connection's own dialect: the other is not imported."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert


def is_any_of(session: Session, column: Any, values: Iterable[int] | Iterable[str]) -> ColumnElement[bool]:
    """The condition that a column has one of many values, which are a single parameter: an array, or JSON on SQLite.

    To bind thousands takes several times as long as to look them up, and SQLite limits their number.
    """
    if session.get_bind().dialect.name == "postgresql":
        among: ColumnElement[bool] = column == any_(literal(list(values), ARRAY(column.type)))
        return among
    rows = func.json_each(json.dumps(list(values))).table_valued("value")
    condition: ColumnElement[bool] = column.in_(select(cast(rows.c.value, column.type)))
    return condition
