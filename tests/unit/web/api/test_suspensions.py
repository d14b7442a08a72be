from __future__ import annotations

import httpx

from tests.testbed.instances import later
from tests.testbed.web_site import API, bearer
from worker.db.engine import Database
from worker.db.tables import TokenRole


def test_only_who_operates_suspends_and_everybody_sees_it(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    operator = bearer(database, TokenRole.OPERATE, "night shift <b>")
    reader = bearer(database, TokenRole.READ, "suspension-reader")
    path = f"{API}/suspensions"
    for change in (client.put, client.delete):
        assert change(f"{path}/deliveries").status_code == 401
        assert change(f"{path}/deliveries", headers=reader).status_code == 403
        assert change(f"{path}/receiving", headers=operator).status_code == 422
    expected = [
        {"stage": "deliveries", "suspended_at": later(600).isoformat().replace("+00:00", "Z"),
         "suspended_by": "night shift <b>"}
    ]  # fmt: skip
    assert client.put(f"{path}/deliveries", headers=operator).json() == {"suspensions": expected}
    assert client.get(path, headers=reader).json() == {"suspensions": expected}
    page = client.get("/peers", headers=reader).text
    assert "Deliveries are suspended" in page
    assert "by night shift &lt;b&gt;" in page
    health = client.get("/health", headers=reader).json()["suspended"]
    assert [row["stage"] for row in health] == ["deliveries"]
    metrics = client.get("/metrics", headers=reader).text
    assert 'mri_worker_suspended{stage="deliveries"} 1.0' in metrics
    assert 'mri_worker_suspended{stage="classification"} 0.0' in metrics
    assert client.delete(f"{path}/deliveries", headers=operator).json() == {"suspensions": []}
    assert "suspended" not in client.get("/peers", headers=reader).text
