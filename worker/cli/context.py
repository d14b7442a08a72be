"""What every command of `worker` shares: options, exit codes, the configuration, the database and the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worker.audit.events import RecordEvent
    from worker.config.settings import Settings
    from worker.db.engine import Database

# Panels of `worker --help`, in the order in which they are first named there.
ANSWERS = "Series, answers and what waits"
MODELS, ADMINISTRATION = "Models and what readers say", "Access, audit and backup"

EXIT_FAULT = 1  # the command ran and found problems
EXIT_START = 2  # the command could not start: configuration, database, bundle, port or usage


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file; by default ./config.toml where it exists."),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="Output format.")]


def settings_from(config: Path | None) -> tuple[Settings, Path | None]:
    """Load the settings; also the file that they were read from."""
    from worker.config.settings import load_settings
    from worker.send.destinations import kinds

    if config is None and Path("config.toml").is_file():
        config = Path("config.toml")
    return load_settings(config, kinds()), config


def open_database(config: Path | None) -> Database:
    """Open the database of the configuration. Raises StartError when its schema is of another version."""
    from worker.config.pseudonyms import pseudonym_of
    from worker.db.engine import Database

    settings, _ = settings_from(config)
    database = Database(settings.database.url, pseudonym_of(settings.privacy))
    database.require_revision()
    return database


@contextmanager
def audited(config: Path | None) -> Iterator[tuple[Settings, Database, RecordEvent, str]]:
    """Open the database and the audit trail: settings, database, recorder, and the user that the trail names."""
    from worker.audit.recorder import recording
    from worker.config.pseudonyms import pseudonym_of
    from worker.db.engine import Database
    from worker.logs import configure_logs

    settings, _ = settings_from(config)
    configure_logs("ERROR")
    database = Database(settings.database.url, pseudonym_of(settings.privacy))
    database.require_revision()
    with recording(settings, database, lambda: datetime.now(UTC)) as record:
        yield settings, database, record, _user()


def _user() -> str:
    """The user of this process as the system knows it; environment variables could be forged."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not be in passwd
        return f"uid {os.getuid()}"
