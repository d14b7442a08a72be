"""The steps of the upgrade guide (docs/deploying.md), and what happens when they fail."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from alembic import command
from sqlalchemy import text

from tests.testbed.instances import mr_instance, received
from worker.cli import app
from worker.config.settings import load_settings
from worker.db import migrate as migration
from worker.db.engine import Database
from worker.db.migrate import alembic_config, migrate, revising
from worker.db.series_status import unfinished_counts
from worker.db.tables import REVISION
from worker.send.destinations import kinds
from worker.storage.keeper import InstanceKeeper

BEFORE = "0001"


def go_back(database: Database) -> None:
    """The database as the version before left it."""
    with revising(database) as connection:
        command.downgrade(alembic_config(connection), BEFORE)


def series_in(database: Database) -> dict[str, int]:
    with database.read() as session:
        return unfinished_counts(session)["series"]


def keep_three(database: Database, data_dir: Path) -> None:
    keeper = InstanceKeeper(database, data_dir, lambda: datetime.now(UTC), minimum_free_bytes=0)
    for number in (1, 2, 3):
        keeper.keep(received(mr_instance(number)))
    keeper.close()


def test_each_step_of_the_guide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    settings = load_settings(config, kinds())

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["worker", *arguments, "--config", str(config)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        structlog.reset_defaults()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    database = Database(settings.database.url)
    migrate(database)
    keep_three(database, settings.worker.data_dir)
    go_back(database)

    code, output = run("migrate")
    assert (code, BEFORE in output, REVISION in output) == (0, True, True)
    assert series_in(database) == {"open": 1}
    assert run("backup", str(tmp_path / "backup"))[0] == 0

    with database.write() as session:  # by a version after ours, which is then given up
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        session.execute(text("DELETE FROM instance"))
    database.close()
    code, output = run("results", "list")
    assert (code, "install a newer worker" in output) == (2, True)

    shutil.move(settings.worker.data_dir, tmp_path / "aside")
    assert run("restore", str(tmp_path / "backup"))[0] == 0
    code, output = run("results", "list", "--format", "json")
    assert (code, output.count("series_instance_uid"), '"instances": 3' in output) == (0, 1, True)
    assert run("backup", str(tmp_path / "again"))[0] == 0  # every file is there, unchanged


def test_a_migration_that_fails_changes_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_three(database, tmp_path)
    go_back(database)
    upgrade = command.upgrade

    def fail_at_the_end(*arguments: Any) -> None:
        upgrade(*arguments)
        raise RuntimeError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(migration.command, "upgrade", fail_at_the_end)
        with pytest.raises(RuntimeError, match="no space left"):
            migrate(database)
    assert database.revision() == BEFORE
    assert migrate(database) == (BEFORE, REVISION)
    assert series_in(database) == {"open": 1}
