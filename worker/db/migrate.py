"""Apply the schema's revisions, and look at a database of any revision, which somebody else may have made.

Apart from `engine`, because only this needs Alembic.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, String, create_engine, inspect, select, table, text
from sqlalchemy import column as sql_column
from sqlalchemy.exc import DatabaseError

from worker.db.engine import Database
from worker.db.tables import REVISION, Base
from worker.errors import StartError

# A trigger or view would change what rows say after they were looked at; the worker's own schema has none.
_OTHERS = "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index') OR upper(sql) LIKE 'CREATE VIRTUAL%'"


def migrations_folder() -> Path:
    """`migrations` as the wheel ships it (inside the package) or as the checkout has it (beside the package)."""
    package = Path(str(resources.files("worker")))
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StartError("migrations-missing", "the installation has no migrations folder: reinstall the worker")


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["connection"] = connection
    return config


@contextmanager
def revising(database: Database) -> Iterator[Connection]:
    """A transaction in which tables may be recreated.

    SQLite alters a table by copying it, and rows that refer to the old table would prevent dropping it: so foreign
    keys are checked once, before the commit (sqlite.org/lang_altertable.html). Raises StartError for a broken key.
    """
    sqlite = database.engine.dialect.name == "sqlite"
    with database.engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        if sqlite and raw is not None:
            raw.cursor().execute("PRAGMA foreign_keys=OFF")  # has no effect inside a transaction
        try:
            with connection.begin():
                yield connection
                if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                    raise StartError("database-damaged", "a row of the database refers to a row that does not exist")
        finally:
            if sqlite and raw is not None:
                raw.cursor().execute("PRAGMA foreign_keys=ON")


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the schema to REVISION and return (revision before, revision after).

    Raises StartError when the database is newer than this worker.
    """
    before = database.revision()
    if before is not None and before > REVISION:
        database.require_revision()
    if before != REVISION:
        with revising(database) as connection:
            # Of two hosts that start at once the second waits here, then has nothing left to do.
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7230411112)")
            command.upgrade(alembic_config(connection), "head")
    return before, REVISION


class NotRestorable(Exception):
    """A database that no worker wrote, or that is damaged. The message says which."""


@contextmanager
def open_sqlite_copy(file: Path) -> Iterator[Connection]:
    """A connection to a SQLite file that changes nothing. Raises NotRestorable where it is damaged or has code."""
    name = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(name, uri=True))
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA trusted_schema=OFF")
            if connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() != "ok":
                raise NotRestorable("is damaged")
            if connection.exec_driver_sql(_OTHERS).scalar():
                raise NotRestorable("has triggers or views, which no worker makes")
            yield connection
    except DatabaseError:
        raise NotRestorable("is damaged, or not a database of SQLite") from None
    finally:
        engine.dispose()


def find_table_with_name(connection: Connection, is_refused: Callable[[object], bool]) -> str | None:
    """The first table of which a row has a refused name: of a file below the data folder, or of a bundle."""
    inspector = inspect(connection)
    for name in inspector.get_table_names():
        for column in (found["name"] for found in inspector.get_columns(name)):
            is_bundle = (name.lower(), column.lower()) == ("model", "sha256")
            if not is_bundle and column.lower() != "path":
                continue
            query = select(sql_column(column, String)).select_from(table(name))
            with connection.execution_options(yield_per=1000).execute(query) as rows:
                if any(is_refused(f"models/{value}" if is_bundle else value) for (value,) in rows):
                    return name
    return None


def drop_tables(database: Database) -> None:
    """Remove the worker's tables of a PostgreSQL database, with all rows."""
    ours = {*Base.metadata.tables, "alembic_version"}
    with database.engine.begin() as connection:
        for name in sorted(ours.intersection(inspect(connection).get_table_names())):
            connection.execute(text(f'DROP TABLE "{name}" CASCADE'))
