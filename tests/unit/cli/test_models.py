"""Models are listed, run in shadow, activated and rolled back by command. With running processes:
tests/acceptance/test_models.py."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.testbed.command import Run
from tests.testbed.instances import MODEL
from worker.config.settings import Settings
from worker.db import models
from worker.db.engine import Database


@pytest.fixture
def second(settings: Settings) -> Database:
    """The database with the active model test 1, and test 2, which was added."""
    database = Database(settings.database.url)
    now = datetime.now(UTC)
    with database.write() as session:
        models.set_configured_model(session, MODEL, now)
        models.add_model(session, replace(MODEL, version="2", sha256="cd" * 32), "ada", now)
    return database


def test_the_list_has_state_and_bundle_of_each(run: Run, second: Database) -> None:
    rows = json.loads(run("models", "list", "--format", "json")[1])
    assert [(row["name"], row["version"], row["state"], row["state_by"]) for row in rows] == [
        (MODEL.name, "2", "added", "ada"), (MODEL.name, MODEL.version, "active", "configuration")
    ]  # fmt: skip


def test_a_model_without_its_bundle_is_neither_run_nor_activated(run: Run, second: Database) -> None:
    for command in ("shadow", "activate"):
        code, _, error = run("models", command, MODEL.name, "2")
        assert code == 2
        assert "this host has no bundle cdcdcdcdcdcd" in error
    assert run("models", "shadow", MODEL.name, "3")[0] != 0
    assert run("models", "add", str(Path(__file__).parent))[0] == 2


def test_what_is_not_in_use_is_removed_and_cannot_be_run_again(run: Run, second: Database) -> None:
    assert run("models", "remove", MODEL.name, "2")[:2] == (0, f"{MODEL.name} 2 is removed\n")
    code, _, error = run("models", "activate", MODEL.name, "2")
    assert (code, error) == (2, f"worker: {MODEL.name} 2 was removed; add it again with worker models add\n")
    assert run("models", "remove", MODEL.name, MODEL.version)[0] != 0
    assert run("models", "rollback")[0] != 0


def test_two_models_are_compared_by_name_and_version(run: Run, second: Database) -> None:
    first, other = f"{MODEL.name}:{MODEL.version}", f"{MODEL.name}:2"
    code, printed, _ = run("models", "compare", first, other)
    assert code == 0
    assert "input sets that both models processed: 0; both classified: 0" in printed
    assert "with a reader's finding: none yet" in printed
    assert json.loads(run("models", "compare", first, other, "--format", "json")[1])["n"] == 0
