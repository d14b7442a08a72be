from __future__ import annotations

import re

import httpx
import pytest

from tests.testbed.instances import later
from tests.testbed.web_site import serving
from worker.db.deliveries import claim_deliveries, end_delivery
from worker.db.engine import Database
from worker.db.tables import DeliveryState
from worker.dicom.standard import derive_uid
from worker.web.dependencies import Site

BROWSER = {"accept": "text/html"}


@pytest.mark.parametrize("path", ["/", "/queue", "/peers", "/models", "/activity?span=month", "/api", "/reports"])
def test_every_page_answers_and_says_research_use(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "Research use only" in answer.text
    assert not re.search(r"<script>|\son[a-z]+=|\sstyle=|https?://", answer.text)


def test_the_navigation_counts_parked_jobs_and_failed_deliveries(site: Site) -> None:
    with serving(site.settings) as (client, database):
        assert _attention(client.get("/peers").text) == "1"
        with database.write() as session:
            [(delivery, _)] = claim_deliveries(session, "pacs", "me", later(10), later(20) - later(10))
            end_delivery(session, delivery.id, "me", {"state": DeliveryState.FAILED, "reason": "rejected"})
        assert _attention(client.get("/peers").text) == "2"


def _attention(page: str) -> str:
    [number] = re.findall(r'class="count"[^>]*>(\d+)<', page)
    return str(number)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/?since=never", 422), ("/series/1.2.3", 404), ("/activity?span=ever", 422), ("/nowhere", 404), ("/?x=1", 422)],
)
def test_a_browser_gets_an_error_as_a_page(client: httpx.Client, path: str, status: int) -> None:
    answer = client.get(path, headers=BROWSER)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "Research use only" in answer.text


def test_without_a_token_a_browser_is_led_to_sign_in_and_a_script_gets_a_problem(
    guarded: tuple[httpx.Client, Database],
) -> None:
    client, _ = guarded
    for path in ("/", f"/series/{derive_uid('series', 'a')}", "/queue", "/api"):
        answer = client.get(path, headers=BROWSER)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/sign-in")
    for path in ("/api/v1/series", f"/series/{derive_uid('series', 'a')}/slices/0.png"):
        assert client.get(path).status_code == 401
    assert client.get("/static/worker.css").status_code == 200
