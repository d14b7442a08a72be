"""Readers confirm and correct labels, by the API and by the form of the series page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.testbed.instances import later
from tests.testbed.waiting import patience
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.dicom.standard import derive_uid
from worker.web.pages.reading_form import slices_as_text, slices_from_text

CLASSIFIED, REFUSED, FAILED = (derive_uid("series", name) for name in "abc")


def _path(series: str) -> str:
    return f"/api/v1/series/{series}/readings"


@contextmanager
def _signed_in(client: httpx.Client, database: Database, name: str, role: TokenRole) -> Iterator[httpx.Client]:
    with database.write() as session:
        _, token = tokens.add_token(session, name, role, later(0), None)
    with httpx.Client(base_url=client.base_url, timeout=patience(60)) as browser:
        browser.post("/sign-in", data={"token": token})
        yield browser


@pytest.fixture(scope="module")
def annotator(guarded: tuple[httpx.Client, Database]) -> Iterator[httpx.Client]:
    with _signed_in(*guarded, "dr-a", TokenRole.ANNOTATE) as browser:
        yield browser


def _form(page: str) -> dict[str, str]:
    """What the form of a page sends when nothing but a label is chosen: it proposes none of its own."""
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page[page.index("reading-part") :]))
    [label] = re.findall(r'<option value="([^"]*)" selected>', page[page.index("Your finding") :])
    return {**fields, "label": label or "other", "slices": "", "comment": ""}


def test_a_label_is_corrected_then_confirmed_and_both_are_kept(client: httpx.Client) -> None:
    empty = client.get(_path(CLASSIFIED)).json()
    assert (empty["readings"], empty["after"]) == ([], 0)
    assert set(empty["labels"]) == {"glioma", "notumor", "tumor", "other", "not-assessable"}
    said = {"label": "notumor", "after": 0, "result": empty["result"], "comment": "flow artefact"}
    first = client.post(_path(CLASSIFIED), json=said)
    assert (first.status_code, first.json()["state"], first.json()["answer"]) == (201, "corrected", "glioma")
    assert _found(client, "corrected") == [CLASSIFIED]
    second = client.post(_path(CLASSIFIED), json=said | {"label": "glioma", "after": 1, "slices": [0], "comment": ""})
    assert second.json() | {"read_at": ""} == {
        "number": 2, "label": "glioma", "state": "confirmed", "comment": "", "slices": [0],
        "reader": "anybody on this machine", "read_at": "", "result": empty["result"], "answer": "glioma",
        "model": "test-model 1.0",
    }  # fmt: skip
    kept = client.get(_path(CLASSIFIED)).json()
    assert [one["comment"] for one in kept["readings"]] == ["", "flow artefact"]
    assert kept["after"] == 2
    assert (_found(client, "confirmed"), _found(client, "corrected")) == ([CLASSIFIED], [])
    assert CLASSIFIED not in _found(client, "unread")
    [shown] = client.get("/api/v1/series", params={"reading": "confirmed"}).json()["series"]
    assert (shown["reading"], shown["read_as"]) == ("confirmed", "glioma")
    assert "confirmed</small>" in client.get("/?reading=confirmed").text


def _found(client: httpx.Client, state: str) -> list[str]:
    answer = client.get("/api/v1/series", params={"reading": state}).json()
    return [one["series_instance_uid"] for one in answer["series"]]


def test_a_series_without_an_answer_can_be_read(client: httpx.Client) -> None:
    listed = client.get(_path(FAILED)).json()
    assert listed["result"] is None
    said = client.post(_path(FAILED), json={"label": "not-assessable", "after": 0})
    assert (said.status_code, said.json()["state"], said.json()["result"]) == (201, "confirmed", None)


def test_of_two_readers_at_once_one_is_told_and_nothing_is_lost(client: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda n: client.post(_path(REFUSED), json={"label": "other", "after": 0, "comment": str(n)}), range(4)
            )
        )
    assert sorted(one.status_code for one in answers) == [201, 409, 409, 409]
    told = next(one.json()["detail"] for one in answers if one.status_code == 409)
    assert "has read this series since you looked at it" in told
    assert len(client.get(_path(REFUSED)).json()["readings"]) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": "astrocytoma"}, "label: must be one of"),
        ({"slices": [1]}, "slices: the result has 1"),
        ({"slices": [-1]}, "slices"),
        ({"result": 999}, "no such result"),
        ({"comment": "a\x00b"}, "comment"),
        ({"comment": "x" * 1001}, "comment"),
        ({"after": None}, "after"),
        ({"who": "me"}, "there is no such parameter"),
    ],
)
def test_what_cannot_be_said_is_a_problem(client: httpx.Client, change: dict[str, object], told: str) -> None:
    result = client.get(_path(CLASSIFIED)).json()["result"]
    answer = client.post(_path(CLASSIFIED), json={"label": "glioma", "after": 0, "result": result} | change)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


def test_an_answer_that_came_meanwhile_is_looked_at_first(client: httpx.Client) -> None:
    answer = client.post(_path(CLASSIFIED), json={"label": "glioma", "after": 0, "result": None})
    assert (answer.status_code, "was answered since" in answer.json()["detail"]) == (409, True)


def test_a_series_that_is_not_there_is_not_read(client: httpx.Client) -> None:
    assert client.get(_path("1.2.3")).status_code == 404
    assert client.post(_path("1.2.3"), json={"label": "glioma", "after": 0}).status_code == 404
    assert client.post("/series/1.2.3/readings", data={"label": "glioma", "after": "0"}).status_code == 404


def test_a_token_that_reads_sees_what_was_said_and_has_no_form(guarded: tuple[httpx.Client, Database]) -> None:
    with _signed_in(*guarded, "ward", TokenRole.READ) as browser:
        page = browser.get(f"/series/{CLASSIFIED}").text
        assert "Reader's finding" in page
        assert "Your finding" not in page
        assert browser.post(f"/series/{CLASSIFIED}/readings", data={"label": "glioma"}).status_code == 403
        assert browser.get(_path(CLASSIFIED)).status_code == 200


def test_a_reader_may_not_do_what_an_operator_does(annotator: httpx.Client) -> None:
    assert annotator.post("/queue/jobs/retry").status_code == 403


def test_the_form_needs_our_own_page_and_keeps_what_was_typed_in_a_conflict(annotator: httpx.Client) -> None:
    address = f"/series/{FAILED}/readings"
    fields = _form(annotator.get(f"/series/{FAILED}").text)
    assert annotator.post(address, data=fields | {"csrf_token": ""}).status_code == 403
    first = annotator.post(address, data=fields | {"comment": "first"})
    assert (first.status_code, first.headers["location"]) == (303, f"/series/{FAILED}#reading")
    late = annotator.post(address, data=fields | {"label": "glioma", "comment": "typed <long>"})
    assert late.status_code == 409
    for text in ("dr-a has read this series", "first", "typed &lt;long&gt;", '"glioma" selected', "Research use only"):
        assert text in late.text
    part = annotator.post(address, data=_form(late.text) | {"comment": "typed"}, headers={"HX-Request": "true"})
    assert part.status_code == 200
    assert part.text.lstrip().startswith("<section")
    assert "1 earlier" in part.text


def test_a_slip_of_the_pen_in_the_form_is_told(annotator: httpx.Client) -> None:
    fields = _form(annotator.get(f"/series/{CLASSIFIED}").text)
    for typed, told in (("x", "write them as 12-14, 18"), ("7", "the result has 1")):
        answer = annotator.post(f"/series/{CLASSIFIED}/readings", data=fields | {"slices": typed})
        assert answer.status_code == 422
        assert told in answer.text


@pytest.mark.parametrize(
    ("typed", "meant", "written"),
    [("", [], ""), ("12-14, 18", [11, 12, 13, 17], "12-14, 18"), (" 3 ;1 - 2", [2, 0, 1], "3, 1-2")],
)
def test_slices_as_a_person_counts_them(typed: str, meant: list[int], written: str) -> None:
    assert slices_from_text(typed) == meant
    assert slices_as_text(meant) == written


@pytest.mark.parametrize("typed", ["0", "5-3", "a", "1-2-3", "1" * 9, "-1"])
def test_what_is_no_slice_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match="write them as"):
        slices_from_text(typed)
