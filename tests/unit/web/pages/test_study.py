"""The study page without a browser; tests/acceptance/test_pages.py looks at it with one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.testbed import studies
from tests.testbed.instances import MODEL, later
from tests.testbed.rows import LEASE, add_series
from tests.testbed.web_site import serving, settings_of
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.db.studies.answering import StudySettling
from worker.db.tables import SeriesStatus
from worker.dicom.standard import derive_uid
from worker.jobs.bundle_store import ServedModel
from worker.jobs.studies import StudyRunner

PAGE = f"/studies/{studies.STUDY}"


@pytest.fixture
def site(shown_bundle: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A study of two gliomas and a refused knee, answered; an older and a newer study that wait for their answer."""
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    migrate(database)
    add_series(database, "older", SeriesStatus.CLASSIFIED, -60)
    studies.classify(database, "a", 0.9)
    studies.classify(database, "b", 0.8)
    studies.refuse(database, "knee", "body-part")
    add_series(database, "newer", SeriesStatus.CLASSIFIED, 60)
    runner = StudyRunner(database, tmp_path, "host:1", lambda: later(99), LEASE, StudySettling(timedelta()), 3)
    while runner.run_next({1: ServedModel(MODEL, lambda _: None)}):  # type: ignore[arg-type, return-value]
        pass
    database.close()
    with serving(settings_of(tmp_path, shown_bundle)) as (client, _):
        yield client


def hidden(page: str) -> dict[str, str]:
    return {name: re.findall(rf'name="{name}" value="(\d*)"', page)[0] for name in ("after", "result")}


def test_the_series_stand_side_by_side_with_how_they_counted(site: httpx.Client) -> None:
    page = site.get(PAGE).text
    cards = re.findall(r'<a class="series-card".*?</a>', page, re.DOTALL)
    assert len(cards) == 3
    assert sum("decides" in card for card in cards) == 1
    assert sum('aria-current="true"' in card and "decides" in card for card in cards) == 1
    assert ["does not count" in card and "body part" in card for card in cards] == [False, False, True]
    chosen = site.get(f"{PAGE}?show={derive_uid('series', 'b')}").text
    assert f'href="/series/{derive_uid("series", "b")}">This series by itself' in chosen
    assert site.get("/studies/1.2.3").status_code == 404


def test_its_neighbours_are_those_of_the_list_that_it_was_opened_from(site: httpx.Client) -> None:
    page = site.get(PAGE).text
    assert f'rel="prev" href="/studies/{derive_uid("study", "newer")}"' in page
    assert f'rel="next" href="/studies/{derive_uid("study", "older")}"' in page
    alone = site.get(f"{PAGE}?text=given").text
    assert 'href="/?text=given">Worklist' in alone
    assert "rel=" not in alone.split("<main")[1]


def test_agreeing_goes_on_to_the_next_unread_study_until_none_is_left(site: httpx.Client) -> None:
    page = site.get(PAGE).text
    answer = site.post(f"{PAGE}/readings", data={**hidden(page), "label": "glioma", "then": "unread"})
    older = f"/studies/{derive_uid('study', 'older')}?saved={studies.STUDY}"
    assert (answer.status_code, answer.headers["location"]) == (303, older)
    assert f'action="{PAGE}/readings/1/withdraw"' in site.get(older).text
    assert "confirmed" in site.get(PAGE).text
    for name in ("older", "newer"):
        address = f"/studies/{derive_uid('study', name)}"
        entry = {**hidden(site.get(address).text), "label": "notumor", "then": "unread"}
        answer = site.post(f"{address}/readings?label=glioma", data=entry)
    assert answer.headers["location"] == f"{address}?label=glioma#reading", "none is left"
    assert site.get("/unread?status=classified").headers["location"] == "/?status=classified&reading=unread"
    read = site.get(f"/api/v1/series/{derive_uid('series', 'a')}/readings").json()["readings"]
    assert [(reading["label"], reading["state"]) for reading in read] == [("glioma", "confirmed")]
    assert site.get("/?reading=confirmed").text.count('<tbody class="study">') == 1
    assert site.get("/?reading=corrected").text.count('<tbody class="study">') == 2


def test_a_late_reader_is_told_and_keeps_what_was_typed(site: httpx.Client) -> None:
    seen = hidden(site.get(PAGE).text)
    entry = {**seen, "label": "notumor", "comment": "typed"}
    assert site.post(f"{PAGE}/readings", data={**seen, "label": "glioma"}).headers["location"] == f"{PAGE}#reading"
    late = site.post(f"{PAGE}/readings", data=entry)
    assert late.status_code == 409
    assert "has read this study since you looked at it" in late.text
    assert ">typed</textarea>" in late.text
    for wrong in ({"label": "x"}, {"result": "999"}, {"after": "y"}):
        assert site.post(f"{PAGE}/readings", data={**seen, "after": "1", "label": "glioma", **wrong}).status_code == 422


def test_slices_that_an_answer_does_not_have_are_refused_and_a_finding_is_undone(site: httpx.Client) -> None:
    assert site.get("/unread").headers["location"] == f"/studies/{derive_uid('study', 'newer')}"
    shown = f"{PAGE}?show={derive_uid('series', 'a')}"
    marked = f"slices-{derive_uid('series', 'a')}"
    entry = {**hidden(site.get(shown).text), "label": "notumor", "comment": "typed"}
    for typed, why in (("7", "slices: the result has 0"), ("a", "write them as 12-14, 18")):
        refused = site.post(f"{PAGE}/readings?show={derive_uid('series', 'a')}", data={**entry, marked: typed})
        assert (refused.status_code, why in refused.text, ">typed</textarea>" in refused.text) == (422, True, True)
        assert f'<input name="{marked}" value="{typed}"' in refused.text, "to be mended"
    saved = site.post(shown.replace("?", "/readings?"), data={**entry, marked: ""})
    assert saved.headers["location"] == f"{shown}#reading"
    assert site.get("/?reading=corrected").text.count('<tbody class="study">') == 1
    assert site.post(f"{PAGE}/readings/1/withdraw").headers["location"] == f"{PAGE}#reading"
    assert "withdrawn</span>" in site.get(PAGE).text
    assert site.get("/?reading=corrected").text.count('<tbody class="study">') == 0
    again = site.post(f"{PAGE}/readings/1/withdraw")
    assert (again.status_code, "another finding on this study stands now" in again.text) == (409, True)
    assert site.delete(f"/api/v1{PAGE}/readings/1").status_code == 409
    assert site.get(f"/api/v1{PAGE}/readings").json()["readings"][0]["withdrawn_at"] is not None
