from __future__ import annotations

import httpx

from tests.testbed.web_site import API


def test_a_parked_job_is_retried_once(client: httpx.Client) -> None:
    [job] = client.get(f"{API}/jobs", params={"state": "parked"}).json()["jobs"]
    assert job["reason"] == "process-died"
    retry = f"{API}/jobs/{job['number']}/retry"
    assert client.post(retry).json() == {"retried": [job["number"]]}
    assert client.post(retry).status_code == 409
    assert client.post(f"{API}/jobs/424242/retry").status_code == 404
    pending = client.get(f"{API}/series", params={"status": "pending"}).json()["series"]
    assert [series["patient_id"] for series in pending] == ["ID-d", "ID-c"]
    assert client.post(f"{API}/jobs/retry").json() == {"retried": []}


def test_a_page_continues_after_a_number(client: httpx.Client) -> None:
    [job] = client.get(f"{API}/jobs").json()["jobs"]
    assert client.get(f"{API}/jobs", params={"after": job["number"]}).json() == {"jobs": []}
