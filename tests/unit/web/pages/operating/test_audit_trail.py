from __future__ import annotations

import re
from pathlib import Path

import httpx

from tests.testbed.web_site import serving, signed_in
from worker.audit import events
from worker.audit.recorder import recording
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web.dependencies import Site


def test_an_operator_pages_through_the_trail_and_is_recorded(site: Site) -> None:
    with recording(site.settings, site.database, site.clock) as record:
        for number in range(150):
            record(events.operated("<b>who</b>", "10.0.0.1", f"<script>{number}</script>"))
        with serving(site.settings, record) as (client, _):
            page = client.get("/audit").text
            assert "<script>1" not in page
            assert "&lt;script&gt;149&lt;/script&gt;" in page
            assert "&lt;b&gt;who&lt;/b&gt; (10.0.0.1)" in page
            [older] = re.findall(r'"/audit\?before=(\d+)"', page)
            older_page = client.get(f"/audit?before={older}").text
            assert "&lt;script&gt;49&lt;/script&gt;" in older_page
            assert "&lt;script&gt;50&lt;/script&gt;" not in older_page
            assert 'href="/audit?before' not in older_page
            assert "Audit Log Used" in client.get("/audit").text
            assert client.get("/audit?before=0").status_code == 422
            assert "No record before this one" in client.get("/audit?before=1").text


def test_a_reader_does_not_see_it(guarded: tuple[httpx.Client, Database], tmp_path: Path) -> None:
    with signed_in(*guarded, TokenRole.ANNOTATE, "curious") as reader:
        assert reader.get("/audit").status_code == 403
        assert "/audit" not in reader.get("/queue").text
    with signed_in(*guarded, TokenRole.OPERATE, "auditor") as operator:
        assert "No record." in operator.get("/audit").text
        assert "/audit" in operator.get("/queue").text
