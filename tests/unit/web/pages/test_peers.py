from __future__ import annotations

import httpx

from tests.testbed.instances import later
from tests.testbed.web_site import serving
from worker.db.instances import open_association
from worker.web.dependencies import Site


def test_destinations_are_shown_with_their_backlog_and_senders_by_address(site: Site) -> None:
    with site.database.write() as session:
        open_association(session, "MR_SCANNER_1", "10.1.7.20:51120", "here:1", later(0))
    with serving(site.settings) as (client, _):
        page = client.get("/peers").text
    assert "127.0.0.1:9" in page
    assert '<dt>Waiting</dt><dd class="number">1</dd>' in page
    assert "<dt>Last delivered</dt><dd>never</dd>" in page
    assert '<th scope="row">MR_SCANNER_1</th><td class="breaks">10.1.7.20:51120</td>' in page
    assert "it accepts any calling AE title" in page


def test_an_echo_shows_the_fault_or_404(client: httpx.Client) -> None:
    answer = client.post("/peers/pacs/echo")
    assert answer.status_code == 200
    assert '<p class="echo bad" id="echo-pacs" role="status">' in answer.text
    assert client.post("/peers/nobody/echo").status_code == 404
