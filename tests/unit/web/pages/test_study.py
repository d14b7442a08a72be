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
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{derive_uid('study', 'older')}")
    assert "confirmed" in site.get(PAGE).text
    for name in ("older", "newer"):
        address = f"/studies/{derive_uid('study', name)}"
        entry = {**hidden(site.get(address).text), "label": "notumor", "then": "unread"}
        answer = site.post(f"{address}/readings?label=glioma", data=entry)
    assert answer.headers["location"] == "/?label=glioma"
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
    assert '<option value="notumor" selected>' in late.text
    for wrong in ({"label": "x"}, {"result": "999"}, {"after": "y"}):
        assert site.post(f"{PAGE}/readings", data={**seen, "after": "1", "label": "glioma", **wrong}).status_code == 422
