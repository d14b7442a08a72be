"""Apply the schema's revisions. Apart from `engine`, because only this needs Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from worker.db.engine import Database
from worker.db.tables import REVISION
from worker.errors import StartError


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
