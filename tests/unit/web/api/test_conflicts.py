from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.testbed.instances import NOON, mr_instance, received
from tests.testbed.web_site import API, bearer
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.storage.keeper import InstanceKeeper


@pytest.fixture
def waiting(guarded: tuple[httpx.Client, Database]) -> tuple[httpx.Client, Database]:
    """Two conflicts in the site's data folder, which is that of its database."""
    _, database = guarded
    keeper = InstanceKeeper(database, Path(str(database.engine.url.database)).parent, lambda: NOON, 0)
    for number in (7, 8):
        keeper.keep(received(mr_instance(number)))
        keeper.keep(received(mr_instance(number, PixelData=bytes(512))))
    keeper.close()
    return guarded


def test_conflicts_are_listed_and_decided_by_who_operates(waiting: tuple[httpx.Client, Database]) -> None:
    client, database = waiting
    reader = bearer(database, TokenRole.READ, "reader")
    operator = bearer(database, TokenRole.OPERATE, "operator")
    listed = client.get(f"{API}/conflicts", headers=reader).json()["conflicts"]
    assert [(one["number"], one["differs"]) for one in listed] == [(1, "pixels"), (2, "pixels")]
    assert client.post(f"{API}/conflicts/1/accept", headers=reader).status_code == 403
    assert client.post(f"{API}/conflicts/1/accept", headers=operator).json() == {"number": 1}
    assert client.post(f"{API}/conflicts/1/accept", headers=operator).status_code == 404
    for path in (Path(str(database.engine.url.database)).parent / "conflicts").rglob("*.dcm"):
        path.unlink()
    answer = client.post(f"{API}/conflicts/2/accept", headers=operator)
    assert (answer.status_code, "missing" in answer.json()["detail"]) == (409, True)
    assert client.post(f"{API}/conflicts/2/reject", headers=operator).json() == {"number": 2}
    assert client.post(f"{API}/conflicts/2/reject", headers=operator).status_code == 404
    assert client.get(f"{API}/conflicts", headers=reader).json() == {"conflicts": []}
