from __future__ import annotations

import httpx

from tests.testbed.web_site import API


def test_deliveries_are_listed_and_sent_without_waiting(client: httpx.Client) -> None:
    [delivery] = client.get(f"{API}/deliveries").json()["deliveries"]
    assert (delivery["destination"], delivery["object"], delivery["state"]) == ("pacs", "report", "pending")
    retry = f"{API}/deliveries/{delivery['number']}/retry"
    assert client.post(retry).json() == {"retried": [delivery["number"]]}
    assert client.post(f"{API}/deliveries/retry").json() == {"retried": []}
    assert client.post(f"{API}/deliveries/424242/retry").status_code == 404


def test_deliveries_are_filtered_by_state(client: httpx.Client) -> None:
    assert client.get(f"{API}/deliveries", params={"state": "failed"}).json() == {"deliveries": []}
    assert client.get(f"{API}/deliveries", params={"state": "delivered"}).status_code == 422
