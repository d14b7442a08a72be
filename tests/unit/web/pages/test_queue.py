from __future__ import annotations

import re

import httpx

from tests.testbed.web_site import signed_in
from worker.db.engine import Database
from worker.db.tables import TokenRole


def test_unfinished_jobs_and_deliveries_are_listed_with_their_reason(client: httpx.Client) -> None:
    page = client.get("/queue").text
    assert "process-died" in page
    assert '<span class="status parked">parked</span>' in page
    assert re.search(r'aria-label="Retry delivery \d+ to pacs"', page)


def test_one_delivery_is_sent_without_waiting(client: httpx.Client) -> None:
    [number] = re.findall(r"/queue/deliveries/(\d+)/retry", client.get("/queue").text)
    answer = client.post(f"/queue/deliveries/{number}/retry")
    assert (answer.status_code, answer.headers["location"]) == (303, "/queue?tried=1")
    assert client.post("/queue/deliveries/retry").headers["location"] == "/queue?tried=0"
    assert client.post("/queue/jobs/424242/retry").headers["location"] == "/queue?tried=0"


def test_a_reader_sees_no_buttons_and_an_operator_retries_by_a_form(guarded: tuple[httpx.Client, Database]) -> None:
    with signed_in(*guarded, TokenRole.READ, "reader") as reader:
        assert "Retry" not in reader.get("/queue").text
        assert reader.post("/queue/jobs/retry").status_code == 403
    with signed_in(*guarded, TokenRole.OPERATE, "operator") as operator:
        page = operator.get("/queue").text
        assert operator.post("/queue/jobs/retry").status_code == 403  # without the CSRF token of the form
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', page)
        answer = operator.post("/queue/jobs/retry", data={"csrf_token": csrf})
        assert (answer.status_code, answer.headers["location"]) == (303, "/queue?tried=1")
