from __future__ import annotations

import re
from pathlib import Path

import httpx

from tests.testbed.instances import NOON, mr_instance, received
from tests.testbed.web_site import signed_in
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.dicom.standard import derive_uid
from worker.storage.keeper import InstanceKeeper


def test_unfinished_jobs_and_deliveries_are_listed_with_their_reason(client: httpx.Client) -> None:
    page = client.get("/queue").text
    assert "process-died" in page
    assert '<span class="status parked">parked</span>' in page
    assert re.search(r'aria-label="Retry delivery \d+ to pacs"', page)


def test_one_delivery_is_sent_without_waiting(client: httpx.Client) -> None:
    [number] = re.findall(r"/queue/deliveries/(\d+)/retry", client.get("/queue").text)
    answer = client.post(f"/queue/deliveries/{number}/retry")
    assert (answer.status_code, answer.headers["location"]) == (303, "/queue?tried=1")
    assert client.post("/queue/deliveries/retry").headers["location"] == "/queue?tried=0"
    assert client.post("/queue/jobs/424242/retry").headers["location"] == "/queue?tried=0"


def test_a_reader_sees_no_buttons_and_an_operator_retries_by_a_form(guarded: tuple[httpx.Client, Database]) -> None:
    with signed_in(*guarded, TokenRole.READ, "reader") as reader:
        assert "Retry" not in reader.get("/queue").text
        assert reader.post("/queue/jobs/retry").status_code == 403
    with signed_in(*guarded, TokenRole.OPERATE, "operator") as operator:
        page = operator.get("/queue").text
        assert operator.post("/queue/jobs/retry").status_code == 403  # without the CSRF token of the form
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', page)
        answer = operator.post("/queue/jobs/retry", data={"csrf_token": csrf})
        assert (answer.status_code, answer.headers["location"]) == (303, "/queue?tried=1")


def test_conflicts_are_shown_and_decided_by_a_form(guarded: tuple[httpx.Client, Database]) -> None:
    _, database = guarded
    keeper = InstanceKeeper(database, Path(str(database.engine.url.database)).parent, lambda: NOON, 0)
    for number in (7, 8):
        keeper.keep(received(mr_instance(number)))
        keeper.keep(received(mr_instance(number, PixelData=bytes(512))))
    keeper.close()
    uid = derive_uid("series", "a")
    with signed_in(*guarded, TokenRole.READ, "conflict-reader") as reader:
        page = reader.get("/queue").text
        assert derive_uid("instance", "a", "7") in page
        assert "Accept" not in page
        assert "2 conflicts wait" in reader.get(f"/series/{uid}").text
        assert reader.post("/queue/conflicts/1/accept").status_code == 403
    with signed_in(*guarded, TokenRole.OPERATE, "conflict-operator") as operator:
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', operator.get("/queue").text)
        for number, decision, decided in ((1, "accept", 1), (1, "reject", 0), (2, "reject", 1)):
            answer = operator.post(f"/queue/conflicts/{number}/{decision}", data={"csrf_token": csrf})
            assert (answer.status_code, answer.headers["location"]) == (303, f"/queue?decided={decided}")
        assert "Conflicts" not in operator.get("/queue").text
        assert "1 image corrected" in operator.get(f"/series/{uid}").text
