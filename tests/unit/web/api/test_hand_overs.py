"""Handing a study over by REST: what is refused before anything begins, and the answers while it goes on."""

from __future__ import annotations

import threading

import httpx
import pytest

from tests.testbed.pacs import Pacs
from tests.testbed.waiting import wait_until
from tests.testbed.web_site import API, bearer, serving
from worker.audit.messages import AuditEvent
from worker.config.sections import PeerSection
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.dicom.standard import derive_uid
from worker.send.hand_over import HandOver
from worker.web.dependencies import Site

CLASSIFIED, REFUSED, PARKED, RECEIVING = (f"{API}/studies/{derive_uid('study', name)}/hand-over" for name in "abcd")


def test_only_an_operator_may(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    for role, begun, asked in ((TokenRole.ANNOTATE, 403, 403), (TokenRole.OPERATE, 404, 404)):
        headers = bearer(database, role, f"hand-over-{role}")
        assert client.post(CLASSIFIED, json={"to": "nobody"}, headers=headers).status_code == begun
        assert client.get(CLASSIFIED, headers=headers).status_code == asked


def test_what_cannot_begin_is_refused_at_once(site: Site, audited: list[AuditEvent]) -> None:
    peers = (
        PeerSection(ae_title="PACS", host="127.0.0.1", port=9),
        PeerSection(ae_title=site.settings.worker.ae_title, host="192.0.2.1", port=104),
    )
    with serving(site.settings.model_copy(update={"peer": peers}), audited.append) as (client, _):
        for path, body, status, detail in (
            (CLASSIFIED, {}, 422, "to: Field required"),
            (CLASSIFIED, {"to": "PACS", "sure": True}, 422, "sure: there is no such parameter"),
            (CLASSIFIED, {"to": "127.0.0.1:104"}, 404, "'127.0.0.1:104' is neither a [[peer]]"),
            (CLASSIFIED, {"to": site.settings.worker.ae_title}, 404, "is this worker"),
            (f"{API}/studies/1.2.3/hand-over", {"to": "PACS"}, 404, "no series of such a study was received"),
            (RECEIVING, {"to": "PACS"}, 409, "images of the study are being received"),
        ):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), body
            assert detail in answer.json()["detail"]
            assert client.get(path).status_code == 404
    assert audited == []


def test_one_of_a_study_and_two_in_all_run_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    go, run = threading.Event(), HandOver.run

    def late(*given: object, **options: object) -> object:
        go.wait(30)
        return run(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(HandOver, "run", late)
    with Pacs() as pacs:
        peer = PeerSection(ae_title="PACS", host="127.0.0.1", port=pacs.port)
        with serving(site.settings.model_copy(update={"peer": (peer,)})) as (client, _):
            begun = client.post(CLASSIFIED, json={"to": "PACS"})
            assert begun.status_code == 202
            assert begun.json() == client.get(CLASSIFIED).json()
            assert (begun.json()["state"], begun.json()["sent"], begun.json()["total"]) == ("running", 0, 0)
            again = client.post(CLASSIFIED, json={"to": "PACS"})
            assert (again.status_code, again.json()["detail"]) == (409, "the study is being handed over")
            assert client.post(REFUSED, json={"to": "PACS"}).status_code == 202
            third = client.post(PARKED, json={"to": "PACS"})
            assert (third.status_code, third.headers["Retry-After"]) == (503, "5")
            go.set()
            # These images have rows only; tests/integration/test_hand_over.py sends whole studies.
            for path in (CLASSIFIED, REFUSED):
                wait_until(lambda path=path: client.get(path).json()["state"] == "failed", "the end")
                assert client.get(path).json()["reason"] == "file-missing"
            assert client.get("/hand-overs").text.count(">failed</span>") == 2
    assert pacs.stored == {}
