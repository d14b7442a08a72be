"""The schema's revisions, applied. Apart from `store`, because Alembic is needed only here."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from worker.errors import StartError
from worker.store import Store
from worker.tables import REVISION


def migrations_folder() -> Path:
    """`migrations` as the wheel ships it (inside the package) or as the checkout has it (beside the package)."""
    package = Path(str(resources.files("worker")))
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StartError("migrations-missing", "the installation has no migrations folder: install the worker again")


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["connection"] = connection
    return config


def migrate(store: Store) -> tuple[str | None, str]:
    """Bring the schema to REVISION; (revision before, revision after).

    Raises StartError when the database is newer than this worker.
    """
    before = store.revision()
    if before is not None and before > REVISION:
        store.require_revision()
    if before != REVISION:
        with store.engine.begin() as connection:
            # Two hosts that start at once: the second waits here, then finds nothing left to do.
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7230411112)")
            command.upgrade(alembic_config(connection), "head")
    return before, REVISION
