"""Who may ask, and for what. With Orthanc: tests/integration/test_fetch.py."""

from __future__ import annotations

import re

import httpx

from tests.testbed.dcmtk import free_port
from tests.testbed.waiting import wait_until
from tests.testbed.web_site import serving, signed_in
from worker.config.sections import PeerSection
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web.dependencies import Site


def test_only_an_operator_fetches_and_by_the_form(guarded: tuple[httpx.Client, Database]) -> None:
    with signed_in(*guarded, TokenRole.ANNOTATE, "no-fetcher") as reader:
        assert reader.get("/fetch").status_code == 403
        assert reader.post("/fetch", data={"peer": "PACS", "study": "1.2"}).status_code == 403
    with signed_in(*guarded, TokenRole.OPERATE, "fetcher") as operator:
        assert "No <code>[[peer]]</code> is configured" in operator.get("/fetch").text
        assert operator.post("/fetch", data={"peer": "PACS", "study": "1.2"}).status_code == 403
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', operator.get("/queue").text)
        fields = {"peer": "10.0.0.1:104", "study": "1.2", "csrf_token": csrf}
        assert operator.post("/fetch", data=fields).status_code == 422  # no address but those of the configuration


def test_what_cannot_be_asked_and_who_does_not_answer(site: Site) -> None:
    peer = PeerSection(ae_title="PACS", host="127.0.0.1", port=free_port(), timeout_seconds=5)
    with serving(site.settings.model_copy(update={"peer": (peer,)})) as (client, _):
        wrong: list[dict[str, str]] = [{}, {"study": "1", "accession": "2"}, {"study": "1" * 65}]
        for fields in [*wrong, {"accession": "1" * 17}]:
            assert client.post("/fetch", data={"peer": "PACS"} | fields).status_code == 422
        assert client.post("/fetch", data={"peer": "PACS", "study": "1.2"}).status_code == 303
        wait_until(lambda: "connection refused" in client.get("/fetch").text, 30)
        assert client.post("/fetch", data={"peer": "PACS", "study": "1.<i>"}).status_code == 303
        wait_until(lambda: "this is no Study Instance UID" in client.get("/fetch").text, 30)
        assert "1.<i>" not in client.get("/fetch").text
