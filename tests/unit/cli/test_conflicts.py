from __future__ import annotations

import json

import pytest

from tests.testbed.command import Run
from tests.testbed.instances import NOON, mr_instance, received
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.storage.keeper import InstanceKeeper


@pytest.fixture
def waiting(database: Database, settings: Settings) -> None:
    keeper = InstanceKeeper(database, settings.worker.data_dir, lambda: NOON, 0)
    for number in (1, 2, 3):
        keeper.keep(received(mr_instance(number)))
        keeper.keep(received(mr_instance(number, PixelData=bytes(512))))
    keeper.close()


def _listed(run: Run) -> list[int]:
    return [one["number"] for one in json.loads(run("conflicts", "list", "--format", "json")[1])]


@pytest.mark.usefixtures("waiting")
def test_conflicts_are_listed_accepted_and_rejected(run: Run) -> None:
    assert _listed(run) == [1, 2, 3]
    assert "pixels" in run("conflicts", "list")[1]
    assert run("conflicts", "accept", "1") == (0, "1 conflict accepted\n", "")
    assert run("conflicts", "reject", "2", "1") == (
        1, "1 conflict rejected\n", "worker: conflict 1: there is no such conflict\n"
    )  # fmt: skip
    assert _listed(run) == [3]
    assert run("conflicts", "accept", "--all")[1] == "1 conflict accepted\n"
    assert _listed(run) == []
    assert "conflict 2: reject" in run("audit", "list", "--format", "json")[1]


def test_a_decision_names_conflicts_or_all(run: Run) -> None:
    assert run("conflicts", "accept")[0] == 2
    assert run("conflicts", "reject", "1", "--all")[0] == 2
