from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.testbed.web_site import signed_in
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.dicom.standard import derive_uid
from worker.web.pages.reading_form import slices_as_text, slices_from_text

CLASSIFIED, FAILED = (derive_uid("series", name) for name in "ac")


@pytest.fixture(scope="module")
def annotator(guarded: tuple[httpx.Client, Database]) -> Iterator[httpx.Client]:
    with signed_in(*guarded, TokenRole.ANNOTATE, "dr-a") as browser:
        yield browser


def _form(page: str) -> dict[str, str]:
    """What a button of the form of a page sends."""
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page[page.index("reading-part") :]))
    return {**fields, "label": "other", "slices": "", "comment": ""}


def test_a_token_that_reads_sees_readings_and_has_no_form(guarded: tuple[httpx.Client, Database]) -> None:
    with signed_in(*guarded, TokenRole.READ, "ward") as browser:
        page = browser.get(f"/series/{CLASSIFIED}").text
        assert "Reader's finding" in page
        assert 'class="reading"' not in page
        assert browser.post(f"/series/{CLASSIFIED}/readings", data={"label": "glioma"}).status_code == 403
        assert browser.get(f"/api/v1/series/{CLASSIFIED}/readings").status_code == 200


def test_a_reader_may_not_do_what_an_operator_does(annotator: httpx.Client) -> None:
    assert annotator.post("/queue/jobs/retry").status_code == 403


def test_a_button_agrees_with_an_answer_and_enter_in_a_field_presses_none(annotator: httpx.Client) -> None:
    page = annotator.get(f"/series/{CLASSIFIED}").text
    assert "Agree: " in page
    assert "<legend>Correct to" in page
    form = page[page.index('<form class="reading"') :]
    assert re.findall(r"<button[^>]*>", form)[0] == "<button hidden disabled>", "the default button of the form"
    page = annotator.get(f"/series/{derive_uid('series', 'd')}").text
    assert "Agree: " not in page
    assert "<legend>Your finding" in page


def test_only_its_reader_withdraws_a_finding(guarded: tuple[httpx.Client, Database]) -> None:
    path = f"/series/{derive_uid('series', 'd')}"
    with signed_in(*guarded, TokenRole.ANNOTATE, "dr-b") as browser:
        fields = _form(browser.get(path).text)
        browser.post(f"{path}/readings", data=fields | {"comment": "mine"})
        token = {"csrf_token": fields["csrf_token"]}
        with signed_in(*guarded, TokenRole.ANNOTATE, "dr-c") as other:
            page = other.get(path).text
            assert "/readings/1/withdraw" not in page
            refused = other.post(f"{path}/readings/1/withdraw", data={"csrf_token": _form(page)["csrf_token"]})
            assert (refused.status_code, "this is the finding of dr-b" in refused.text) == (409, True)
        assert "/readings/1/withdraw" in browser.get(path).text
        undone = browser.post(f"{path}/readings/1/withdraw", data=token)
        assert (undone.status_code, undone.headers["location"]) == (303, f"{path}#reading")
        page = browser.get(path).text
        assert ["withdrawn</span>" in page, "mine" in page, "Unread" in page] == [True, True, True]
        assert browser.post(f"{path}/readings/1/withdraw", data=token).status_code == 409


def test_the_form_needs_our_own_page_and_keeps_what_was_typed_in_a_conflict(annotator: httpx.Client) -> None:
    address = f"/series/{FAILED}/readings"
    fields = _form(annotator.get(f"/series/{FAILED}").text)
    assert annotator.post(address, data=fields | {"csrf_token": ""}).status_code == 403
    first = annotator.post(address, data=fields | {"comment": "first"})
    assert (first.status_code, first.headers["location"]) == (303, f"/series/{FAILED}#reading")
    late = annotator.post(address, data=fields | {"label": "glioma", "comment": "typed <long>"})
    assert late.status_code == 409
    for text in ("dr-a has read this series", "first", "typed &lt;long&gt;", "Research use only"):
        assert text in late.text
    part = annotator.post(address, data=_form(late.text) | {"comment": "typed"}, headers={"HX-Request": "true"})
    assert part.status_code == 200
    assert part.text.lstrip().startswith("<section")
    assert "1 earlier" in part.text


def test_an_invalid_entry_is_explained_in_the_form(annotator: httpx.Client) -> None:
    fields = _form(annotator.get(f"/series/{CLASSIFIED}").text)
    for slices, fault in (("x", "write them as 12-14, 18"), ("7", "the result has 1")):
        answer = annotator.post(f"/series/{CLASSIFIED}/readings", data=fields | {"slices": slices})
        assert answer.status_code == 422
        assert fault in answer.text


def test_a_series_that_was_not_received_is_404(client: httpx.Client) -> None:
    assert client.post("/series/1.2.3/readings", data={"label": "glioma", "after": "0"}).status_code == 404


@pytest.mark.parametrize(
    ("typed", "ordinals", "written"),
    [("", [], ""), ("12-14, 18", [11, 12, 13, 17], "12-14, 18"), (" 3 ;1 - 2", [2, 0, 1], "3, 1-2")],
)
def test_slices_as_a_person_counts_them(typed: str, ordinals: list[int], written: str) -> None:
    assert slices_from_text(typed) == ordinals
    assert slices_as_text(ordinals) == written


@pytest.mark.parametrize("typed", ["0", "5-3", "a", "1-2-3", "1" * 9, "-1"])
def test_a_text_that_names_no_slices_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match="write them as"):
        slices_from_text(typed)
