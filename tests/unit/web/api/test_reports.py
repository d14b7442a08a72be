from __future__ import annotations

import httpx

from tests.testbed.web_site import API, serving
from worker.web.dependencies import Site
from worker.web.monthly_report import write_report


def test_without_a_report_the_list_is_empty_and_a_month_is_404(client: httpx.Client) -> None:
    assert client.get(f"{API}/reports").json() == []
    assert client.get(f"{API}/reports/2026-03").status_code == 404
    assert client.get(f"{API}/reports/2026-99").status_code == 422


def test_a_report_is_listed_and_returned_as_written(site: Site) -> None:
    write_report(site.database, site.data_dir, "2026-03", site.clock())
    with serving(site.settings) as (client, _):
        assert client.get(f"{API}/reports").json() == ["2026-03"]
        report = client.get(f"{API}/reports/2026-03").json()
    assert (report["month"], report["received"]) == ("2026-03", 4)
    assert [model["results"] for model in report["models"]] == [1]
