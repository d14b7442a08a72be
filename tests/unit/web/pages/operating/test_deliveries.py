from __future__ import annotations

import re

import httpx
import pytest

from tests.testbed.web_site import serving, signed_in
from worker.audit.messages import AuditEvent
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web.dependencies import Site


def test_what_has_not_arrived_is_listed_and_sent_by_an_operator_only(guarded: tuple[httpx.Client, Database]) -> None:
    with signed_in(*guarded, TokenRole.READ, "reader-of-deliveries") as reader:
        page = reader.get("/deliveries").text
        assert "ID-a" in page
        assert "Send" not in page
        for path in ("/deliveries/retry", "/deliveries/1/retry", "/deliveries/resend"):
            assert reader.post(path, data={"destination": "pacs", "to": "pacs", "delivery-1": "on"}).status_code == 403
    with signed_in(*guarded, TokenRole.OPERATE, "sender") as operator:
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', operator.get("/deliveries").text)
        assert operator.post("/deliveries/retry", data={"destination": "pacs"}).status_code == 403  # no CSRF token

        def sent(path: str, **fields: str) -> str | int:
            answer = operator.post(path, data=fields | {"csrf_token": csrf})
            return answer.headers["location"] if answer.status_code == 303 else answer.status_code

        assert sent("/deliveries/retry?state=failed", destination="pacs") == "/deliveries?state=failed&done=1"
        assert sent("/deliveries/retry", destination="elsewhere") == 404
        assert sent("/deliveries/1/retry") == "/deliveries?done=1"
        assert sent("/deliveries/424242/retry") == "/deliveries?done=0"
        assert sent("/deliveries/resend", to="pacs", **{"delivery-1": "on"}) == "/deliveries?done=1"
        assert sent("/deliveries/resend", to="pacs") == 422
        assert sent("/deliveries/resend", to="", **{"delivery-1": "on"}) == 404
        assert sent("/deliveries/resend", to="pacs", **{"delivery-1 OR 1": "on"}) == 422
        [study] = set(re.findall(r"/studies/([0-9.]+)", operator.get("/deliveries").text))
        of_study = f"/deliveries?study_instance_uid={study}"
        assert sent(of_study.replace("deliveries", "deliveries/resend"), to="pacs", study="1") == f"{of_study}&done=1"
        unknown = sent("/deliveries/resend?study_instance_uid=1.2", to="pacs", study="1")
        assert unknown == "/deliveries?study_instance_uid=1.2&done=0"


@pytest.mark.parametrize(
    ("query", "is_listed"),
    [
        ("", True), ("state=all", True), ("state=delivered", False), ("destination=pacs", True),
        ("patient_id=ID-a", True),
        ("destination=other", False), ("patient_id=ID-b", False), ("study_instance_uid=1.2", False),
        ("before=1", False),
        ("before=2", True), ("destination=", True),
    ],
)  # fmt: skip
def test_the_list_is_filtered(client: httpx.Client, query: str, is_listed: bool) -> None:
    assert ("<small>ID-a" in client.get(f"/deliveries?{query}").text) == is_listed


@pytest.mark.parametrize("query", ["state=lost", "before=0", "x=1", "study_instance_uid=a", "state=all&state=failed"])
def test_what_cannot_be_listed_is_refused(client: httpx.Client, query: str) -> None:
    assert client.get(f"/deliveries?{query}").status_code == 422


def test_values_are_text_and_the_trail_has_no_patient(site: Site, audited: list[AuditEvent]) -> None:
    with serving(site.settings, audited.append) as (client, _):
        page = client.get("/deliveries", params={"patient_id": '<b>"x'}).text
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert audited[-1].subjects[0].query == "state=unfinished&patient_id=%2A%2A%2A"
