"""Who hands a study over, on the page, and what becomes of it. With Orthanc: tests/integration/test_hand_over.py."""

from __future__ import annotations

import re

import httpx

from tests.testbed.pacs import Pacs
from tests.testbed.waiting import wait_until
from tests.testbed.web_site import API, bearer, serving, signed_in
from worker.audit.messages import AuditEvent
from worker.config.sections import PeerSection
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web.dependencies import Site


def _study(client: httpx.Client, patient_id: str, **options: dict[str, str]) -> str:
    [series] = client.get(f"{API}/series", params={"patient_id": patient_id}, **options).json()["series"]
    return str(series["study_instance_uid"])


def test_an_operator_only_with_the_form_the_box_and_a_configured_node(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    uid = _study(client, "ID-b", headers=bearer(database, TokenRole.READ, "no-hander"))
    with signed_in(client, database, TokenRole.ANNOTATE, "no-hander-either") as reader:
        assert "Hand this study over" not in reader.get(f"/studies/{uid}").text
        assert reader.get("/hand-overs").status_code == 403
        assert reader.post(f"/studies/{uid}/hand-over", data={"sure": "on", "to": "pacs"}).status_code == 403
    with signed_in(client, database, TokenRole.OPERATE, "hander") as operator:
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', operator.get(f"/studies/{uid}").text)
        path = f"/studies/{uid}/hand-over"
        assert operator.post(path, data={"sure": "on", "to": "pacs"}).status_code == 403
        assert operator.post(path, data={"csrf_token": csrf, "to": "pacs"}).status_code == 422
        wrong = {"csrf_token": csrf, "sure": "on", "to": "10.0.0.1:104"}
        assert operator.post(path, data=wrong).status_code == 422
        assert "None since the web process started" in operator.get("/hand-overs").text


def test_it_is_sent_and_deleted_or_it_says_why_not(site: Site, audited: list[AuditEvent]) -> None:
    with Pacs() as pacs:
        peer = PeerSection(ae_title="PACS", host="127.0.0.1", port=pacs.port)
        with serving(site.settings.model_copy(update={"peer": (peer,)}), audited.append) as (client, _):
            uid, waiting = _study(client, "ID-a"), _study(client, "ID-d")
            assert "<option>PACS</option>" in client.get(f"/studies/{uid}").text
            form = {"to": "PACS", "sure": "on"}
            for study in (waiting, "1.2.3"):
                answer = client.post(f"/studies/{study}/hand-over", data=form)
                assert (answer.status_code, answer.headers["location"]) == (303, "/hand-overs")
                wait_until(lambda: "running</span>" not in client.get("/hand-overs").text, 30)
            page = client.get("/hand-overs").text
            assert "images of the study are being received" in page
            assert "there is no such study" in page
            # The images of the pages' test data have rows only.
            assert client.post(f"/studies/{uid}/hand-over", data=form).status_code == 303
            wait_until(lambda: client.get("/hand-overs").text.count(">failed</span>") == 3, 30)
            assert client.get(f"/studies/{uid}").status_code == 200
    assert pacs.stored == {}
    assert "DICOM Study Deleted" not in [event.id.meaning for event in audited]
