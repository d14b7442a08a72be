"""`worker` run in this process, on a configuration and a database of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed.command import Run, command
from tests.testbed.databases import make_tables
from worker.config.settings import Settings, load_settings
from worker.db.engine import Database
from worker.send.destinations import kinds


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text('[audit]\nsource = "here"\n')
    return file


@pytest.fixture
def settings(config: Path) -> Settings:
    return load_settings(config, kinds())


@pytest.fixture
def database(settings: Settings) -> Database:
    """The database of the configuration, with the tables of this version."""
    database = Database(settings.database.url)
    make_tables(database)
    return database


@pytest.fixture
def run(config: Path, database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`worker ARGUMENTS --config FILE`: exit code, standard output, standard error."""
    database.close()
    return command(config, monkeypatch, capsys)
