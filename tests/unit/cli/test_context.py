"""Where a command finds its configuration and its database, and whom the audit trail names."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from worker.audit.verify import newest_entries
from worker.cli.context import audited, open_database, settings_from
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.errors import StartError


def test_the_configuration_of_the_working_directory_is_the_default(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, file = settings_from(None)
    assert (settings.audit.source, file) == ("here", Path("config.toml"))
    config.unlink()
    settings, file = settings_from(None)
    assert (settings.audit.source, file) == ("", None)


def test_a_database_of_another_version_is_not_opened(config: Path) -> None:
    with pytest.raises(StartError, match="worker migrate"):
        open_database(config)


def test_what_a_command_records_names_the_user_of_the_process(
    config: Path, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.audit import events

    monkeypatch.setenv("USER", "somebody-else")
    with audited(config) as (_, _, record, user):
        record(events.operated(user, None, "a command"))
    assert user == pwd.getpwuid(os.getuid()).pw_name
    [entry] = newest_entries(settings, 1)
    assert "somebody-else" not in str(entry)
    assert user in str(entry)
