from __future__ import annotations

import httpx

from tests.testbed.web_site import serving
from worker.web.dependencies import Site
from worker.web.monthly_report import write_report


def test_without_a_report_the_page_says_how_to_write_one(client: httpx.Client) -> None:
    assert "worker report" in client.get("/reports").text
    assert client.get("/reports/2026-03").status_code == 404


def test_a_report_is_shown_within_the_layout(site: Site) -> None:
    write_report(site.database, site.data_dir, "2026-03", site.clock())
    with serving(site.settings) as (client, _):
        assert 'href="/reports/2026-03"' in client.get("/reports").text
        page = client.get("/reports/2026-03").text
    assert "4 series received" in page
    assert "test-model 1.0" in page
    assert '<nav aria-label="Main">' in page
