"""What the worklist answers without a browser; tests/acceptance/test_pages.py looks at every page with one."""

from __future__ import annotations

import re

import httpx
import pytest

from worker.db.views import tallies


def test_an_incomplete_series_is_marked(client: httpx.Client) -> None:
    rows = [row for row in client.get("/").text.split('<tbody class="study">') if "incomplete" in row]
    assert ["ID-a" in row for row in rows if "Glioma" in row.split("<details")[1]] == [True]


def test_a_count_that_stops_early_ends_with_a_plus(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = r"<b>([\d,]+\+?)</b>"
    assert re.findall(counts, client.get("/").text) == ["4", "0", "0", "1", "1", "2"]
    monkeypatch.setattr(tallies, "MANY", 0)
    assert re.findall(counts, client.get("/").text) == ["0+", "0", "0", "0+", "0+", "0+"]


def test_a_page_that_shows_nothing_new_is_not_sent_again(client: httpx.Client) -> None:
    live = re.search(r'hx-get="([^"]*seen=[^"]*)"', client.get("/").text)
    assert live is not None
    assert client.get(live[1].replace("&amp;", "&")).status_code == 204


def test_empty_fields_of_the_form_do_not_filter(client: httpx.Client) -> None:
    answer = client.get("/?text=&status=&label=&minimum_probability=&since=&until=")
    assert answer.status_code == 200
    assert answer.text.count("<time") == 4


def test_a_filter_is_kept_in_the_form_and_in_the_links(client: httpx.Client) -> None:
    page = client.get("/?text=ID-a&status=pending").text
    assert page.count("<time") == 1
    assert 'value="ID-a"' in page
    assert '<option value="pending" selected>' in page
    assert 'href="/?text=ID-a"' in page  # every status
    assert 'href="/?text=ID-a&amp;status=refused"' in page


def test_the_numbers_are_those_of_the_search(client: httpx.Client) -> None:
    def numbers(address: str) -> list[str]:
        return re.findall(r"<b>([\d,+]+)</b>", client.get(address).text)

    everything, found = numbers("/"), numbers("/?text=FAMILY+a")
    assert everything[0] == "4"
    assert found[0] == "4", "each has an accession number that begins with an a"
    assert numbers("/?text=Family%2C+id-a")[0] == "1"
    assert "<b>1</b> study</a>" in client.get("/?text=Family%2C+id-a").text
    assert "<b>4</b> studies</a>" in client.get("/").text
    assert numbers("/?text=nobody") == ["0"] * len(everything)
