"""What every command of `worker` shares: its configuration, the database, the audit trail, and how it prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.config.settings import Settings, load_settings
from worker.send.destinations import kinds

if TYPE_CHECKING:
    from worker.audit.events import RecordEvent
    from worker.db.engine import Database

EXIT_FAULT = 1  # the command ran and found something wrong
EXIT_START = 2  # the command could not start: configuration, database, bundle, port or usage


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration file; without it ./config.toml where there is one."),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print.")]


def settings_from(config: Path | None) -> tuple[Settings, Path | None]:
    """The settings and the file they came from."""
    if config is None and Path("config.toml").is_file():
        config = Path("config.toml")
    return load_settings(config, kinds()), config


def open_database(config: Path | None) -> Database:
    from worker.config.pseudonyms import pseudonym_of
    from worker.db.engine import Database

    settings, _ = settings_from(config)
    database = Database(settings.database.url, pseudonym_of(settings.privacy))
    database.require_revision()
    return database


@contextmanager
def audited(config: Path | None) -> Iterator[tuple[Settings, Database, RecordEvent, str]]:
    """Settings, the database, the audit trail, and the name of who runs the command."""
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
    """Who runs this process, as the system knows it; the environment could say anything."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not be in passwd
        return f"uid {os.getuid()}"
