from __future__ import annotations

import httpx

from tests.testbed.web_site import API


def test_a_destination_that_does_not_answer_says_why(client: httpx.Client) -> None:
    [destination] = client.get(f"{API}/destinations").json()
    assert (destination["name"], destination["address"]) == ("pacs", "127.0.0.1:9")
    answer = client.post(f"{API}/destinations/pacs/echo").json()
    assert (answer["answers"], answer["reason"]) == (False, "peer-unavailable")
    assert client.post(f"{API}/destinations/nobody/echo").status_code == 404
