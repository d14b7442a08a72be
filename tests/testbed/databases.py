"""Databases with the tables of this version, made quickly: most tests need them, and few are about how they are made.

Every revision in turn takes half a second of a processor on SQLite; a copy of a migrated file takes none. Emptying the
tables of PostgreSQL by TRUNCATE takes a new file for each table and each index; few tables have any rows.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from sqlalchemy import text

from worker.config.paths import sqlite_path
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.db.tables import Base


@functools.cache
def _migrated_file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="worker-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    database = Database(f"sqlite:///{folder / 'worker.db'}")
    migrate(database)
    database.close()
    return folder / "worker.db"


def make_tables(database: Database) -> None:
    """What `migrate` does to an empty database; for SQLite by a copy. FileExistsError where the file is there."""
    file = sqlite_path(database.engine.url.render_as_string(hide_password=False))
    if file is None:
        migrate(database)
        return
    if file.exists():
        raise FileExistsError(f"{file} is no new database")
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_migrated_file(), file)


def empty_tables(database: Database) -> None:
    """Make a PostgreSQL database as one that has just been migrated: no rows, and keys from 1 again."""
    migrate(database)
    tables = [f'"{table.name}"' for table in Base.metadata.sorted_tables]
    with database.engine.begin() as connection:
        filled = " UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in tables)
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # without foreign keys, in any order
        for name in connection.scalars(text(filled)).all():
            connection.execute(text(f"DELETE FROM {name}"))
        drawn = "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) > 0"
        connection.execute(text(drawn))
