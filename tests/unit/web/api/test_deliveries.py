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


def test_deliveries_are_filtered(client: httpx.Client) -> None:
    [delivery] = client.get(f"{API}/deliveries").json()["deliveries"]
    for state in ("failed", "delivered"):
        assert client.get(f"{API}/deliveries", params={"state": state}).json()["deliveries"] == []
    assert client.get(f"{API}/deliveries", params={"state": "lost"}).status_code == 422
    of_study = {"study_instance_uid": delivery["study_instance_uid"], "destination": "pacs"}
    answer = client.get(f"{API}/deliveries", params=of_study).json()
    assert [found["number"] for found in answer["deliveries"]] == [delivery["number"]]
    assert [(at["destination"], at["pending"]) for at in answer["destinations"]] == [("pacs", 1)]
    retry = client.post(f"{API}/deliveries/retry", params={"destination": "pacs", "waiting": True})
    assert retry.json() == {"retried": [delivery["number"]]}


def test_what_was_made_is_sent_again_to_a_destination_of_the_configuration(client: httpx.Client) -> None:
    [delivery] = client.get(f"{API}/deliveries").json()["deliveries"]
    resend = f"{API}/deliveries/resend"
    by_number = {"destination": "pacs", "deliveries": [delivery["number"]]}
    assert client.post(resend, json=by_number).json() == {"again": [delivery["number"]], "added": []}
    by_study = {"destination": "pacs", "study_instance_uid": delivery["study_instance_uid"]}
    assert client.post(resend, json=by_study).json() == {"again": [delivery["number"]], "added": []}
    assert client.post(resend, json={**by_number, "destination": "nobody"}).status_code == 404
    assert client.post(resend, json={"destination": "pacs", "series_instance_uid": "1.2"}).status_code == 404
    assert client.post(resend, json={"destination": "pacs"}).status_code == 422
    assert client.post(resend, json={**by_number, **by_study}).status_code == 422
