"""The commands about tokens and the audit trail, run in this process."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from worker.cli import app
from worker.config.settings import load_settings
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.send.destinations import kinds

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`worker ARGUMENTS` on a configuration of its own: exit code, standard output, standard error."""
    config = tmp_path / "config.toml"
    config.write_text('[audit]\nsource = "here"\n')
    database = Database(load_settings(config, kinds()).database.url)
    migrate(database)
    database.close()

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["worker", *arguments, "--config", str(config)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        structlog.reset_defaults()
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return command


def test_a_token_is_shown_once_and_listed_without_its_secret(run: Run) -> None:
    code, token, told = run("tokens", "add", "--role", "read", "--name", "ward")
    assert code == 0
    assert token.startswith("bmw_")
    assert "ward" in told
    _, listed, _ = run("tokens", "list", "--format", "json")
    [row] = json.loads(listed)
    assert (row["name"], row["role"], row["revoked_at"]) == ("ward", "read", None)
    assert row["expires_at"] > row["created_at"]
    assert token.strip().split("_", 2)[2] not in listed
    assert run("tokens", "add", "--role", "read", "--name", "ward")[0] == 1
    assert run("tokens", "revoke", "ward")[0] == 0
    assert run("tokens", "revoke", "nobody")[0] == 1
    assert json.loads(run("tokens", "list", "--format", "json")[1])[0]["revoked_at"]


def test_what_a_command_asks_and_changes_is_on_record_and_tampering_is_found(run: Run, tmp_path: Path) -> None:
    run("tokens", "add", "--role", "operate", "--name", "admin")
    run("results", "list", "--patient-id", "CANARY-ID", "--label", "glioma")
    run("jobs", "retry", "--all")
    _, listed, _ = run("audit", "list", "--format", "json")
    entries = json.loads(listed)
    assert [one["event"] for one in entries] == [
        "Security Alert: Use of Restricted Function",
        "Query",
        "Security Alert: User Security Attributes Changed",
    ]
    [file] = (tmp_path / "var" / "audit").glob("*.audit")
    assert "CANARY-ID" not in file.read_text()
    code, out, told = run("audit", "verify", "--format", "json")
    assert (code, json.loads(out)[0]["records"]) == (0, 4)
    assert "here: 4 records, intact" in told

    whole = file.read_bytes()
    file.write_bytes(whole.replace(b">admin<", b">nobody<", 1))
    code, _, told = run("audit", "verify")
    assert code == 1
    assert "record 1 was edited" in told
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    code, _, told = run("audit", "verify")
    assert code == 1
    assert "truncated" in told
    assert run("audit", "accept")[0] == 0
    assert run("audit", "verify")[0] == 0


def test_a_restored_trail_is_intact_and_goes_on(run: Run, tmp_path: Path) -> None:
    run("tokens", "add", "--role", "read")
    assert run("backup", str(tmp_path / "copy"))[0] == 0
    shutil.rmtree(tmp_path / "var")
    assert run("restore", str(tmp_path / "copy"))[0] == 0
    code, out, told = run("audit", "verify", "--format", "json")
    assert code == 0, told
    assert json.loads(out)[0]["records"] == 2  # the token, and the import; the backup itself is not in its copy
    [file] = (tmp_path / "var" / "audit").glob("*.audit")
    assert file.stat().st_mode & 0o777 == 0o600
