"""Who deletes a study, on the page and by REST."""

from __future__ import annotations

import re

import httpx

from tests.testbed.web_site import API, bearer, serving, signed_in
from worker.audit.messages import AuditEvent
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web.dependencies import Site


def _study(client: httpx.Client, patient_id: str, **options: dict[str, str]) -> str:
    [series] = client.get(f"{API}/series", params={"patient_id": patient_id}, **options).json()["series"]
    return str(series["study_instance_uid"])


def test_an_operator_deletes_with_the_form_and_the_box_only(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    reads = bearer(database, TokenRole.ANNOTATE, "no-deleter")
    uid = _study(client, "ID-b", headers=reads)
    assert client.delete(f"{API}/studies/{uid}", headers=reads).status_code == 403
    with signed_in(client, database, TokenRole.ANNOTATE, "no-deleter-either") as reader:
        assert "Delete" not in reader.get(f"/studies/{uid}").text
        assert reader.post(f"/studies/{uid}/delete", data={"sure": "on"}).status_code == 403
    with signed_in(client, database, TokenRole.OPERATE, "deleter") as operator:
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', operator.get(f"/studies/{uid}").text)
        path = f"/studies/{uid}/delete"
        assert operator.post(path, data={"sure": "on"}).status_code == 403
        assert operator.post(path, data={"csrf_token": csrf}).status_code == 422
        assert operator.post(path, data={"csrf_token": csrf, "sure": "on"}).headers["location"] == "/"
        assert operator.post(path, data={"csrf_token": csrf, "sure": "on"}).status_code == 404
        assert operator.get(f"/studies/{uid}").status_code == 404
        for known in ("ID-a", "ID-c"):
            assert operator.get(f"/studies/{_study(client, known, headers=reads)}").status_code == 200


def test_by_rest_with_what_was_deleted(site: Site, audited: list[AuditEvent]) -> None:
    with serving(site.settings, audited.append) as (client, _):
        waiting = _study(client, "ID-d")
        assert client.delete(f"{API}/studies/{waiting}").status_code == 409  # its series has not settled
        uid = _study(client, "ID-a")
        answer = client.delete(f"{API}/studies/{uid}")
        assert (answer.status_code, answer.json()["instances"]) == (200, 1)
        assert client.delete(f"{API}/studies/{uid}").status_code == 404
        assert client.get(f"{API}/deliveries").json()["deliveries"] == []
        assert client.get("/metrics").status_code == 200
    assert [event.id.meaning for event in audited].count("DICOM Study Deleted") == 1
