"""What the page answers without a browser; tests/acceptance/test_pages.py looks at it with one."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.testbed.instances import later
from tests.testbed.waiting import patience
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.db.views import activity
from worker.dicom.standard import derive_uid
from worker.web.templating import percent, person

BROWSER = {"accept": "text/html"}


@pytest.mark.parametrize("path", ["/", "/queue", "/peers", "/models", "/activity?span=month", "/api"])
def test_every_page_answers_and_says_research_use(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "Research use only" in answer.text
    assert not re.search(r"<script>|\son[a-z]+=|\sstyle=|https?://", answer.text)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a", "Glioma"),
        ("a", "Incomplete: 2 of the 3 images came"),
        ("b", "modality CT"),
        ("c", "process-died"),
        ("d", "No result yet"),
    ],
)
def test_a_series_tells_its_answer_or_its_reason(client: httpx.Client, name: str, told: str) -> None:
    assert told in client.get(f"/series/{derive_uid('series', name)}").text


def test_the_list_says_which_answers_are_about_an_incomplete_series(client: httpx.Client) -> None:
    rows = [row for row in client.get("/").text.split("<tr>") if "incomplete" in row]
    assert ["ID-a" in row for row in rows if "Glioma" in row] == [True]


def test_what_is_not_counted_to_its_end_says_so(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = r"<b>([\d,]+\+?)</b>"
    assert re.findall(counts, client.get("/").text) == ["4", "1", "0", "1", "1", "1"]
    monkeypatch.setattr(activity, "MANY", 0)
    assert re.findall(counts, client.get("/").text) == ["0+", "0+", "0", "0+", "0+", "0+"]


def test_a_page_that_shows_nothing_new_is_not_sent_again(client: httpx.Client) -> None:
    found = re.search(r'hx-get="([^"]*seen=[^"]*)"', client.get("/").text)
    assert found is not None
    assert client.get(found[1].replace("&amp;", "&")).status_code == 204


def test_a_form_with_empty_fields_asks_for_everything(client: httpx.Client) -> None:
    answer = client.get("/?text=&status=&label=&minimum_probability=&since=&until=")
    assert answer.status_code == 200
    assert answer.text.count("<time") == 4


@pytest.mark.parametrize(
    ("path", "status"),
    [("/?since=never", 422), ("/series/1.2.3", 404), ("/activity?span=ever", 422), ("/nowhere", 404), ("/?x=1", 422)],
)
def test_a_browser_gets_an_error_as_a_page(client: httpx.Client, path: str, status: int) -> None:
    answer = client.get(path, headers=BROWSER)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "Research use only" in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("slices/0.png", 404),  # the fixture has no files
        ("slices/9.png", 404),
        ("slices/0.png?low=1&high=0", 422),
        ("slices/0/activation.png", 404),
        ("picture.png", 404),
    ],
)
def test_a_picture_that_is_not_there_is_a_problem(client: httpx.Client, path: str, status: int) -> None:
    answer = client.get(f"/series/{derive_uid('series', 'a')}/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_static_files_are_kept_by_the_browser_and_no_others_are_served(client: httpx.Client) -> None:
    [style] = re.findall(r'href="(/static/worker\.css[^"]*)"', client.get("/").text)
    assert "max-age" in client.get(style).headers["cache-control"]
    assert client.get("/static/..%2Fpage.py").status_code == 404


def test_names_and_probabilities_as_a_person_reads_them() -> None:
    assert person("Family^Given^Middle^Dr=ideographic") == "Family, Given Middle"
    assert (percent(0.9999), percent(0.0001), percent(0.5)) == ("> 99.9 %", "< 0.1 %", "50.0 %")


def test_without_a_token_a_browser_is_led_to_sign_in_and_a_script_gets_a_problem(
    guarded: tuple[httpx.Client, Database],
) -> None:
    client, _ = guarded
    for path in ("/", f"/series/{derive_uid('series', 'a')}", "/queue", "/api"):
        answer = client.get(path, headers=BROWSER)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/sign-in")
    for path in ("/api/v1/series", f"/series/{derive_uid('series', 'a')}/slices/0.png"):
        assert client.get(path).status_code == 401
    assert client.get("/static/worker.css").status_code == 200


def test_a_reader_sees_no_buttons_and_an_operator_retries_by_a_form(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    with database.write() as session:
        texts = {role: tokens.add_token(session, role.value, role, later(0), None)[1] for role in TokenRole}
    with httpx.Client(base_url=client.base_url, timeout=patience(60)) as reader:
        reader.post("/sign-in", data={"token": texts[TokenRole.READ]})
        assert "Retry" not in reader.get("/queue").text
        assert reader.post("/queue/jobs/retry").status_code == 403
    with httpx.Client(base_url=client.base_url, timeout=patience(60)) as operator:
        operator.post("/sign-in", data={"token": texts[TokenRole.OPERATE]})
        page = operator.get("/queue").text
        assert operator.post("/queue/jobs/retry").status_code == 403  # a cross-site or expired form
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', page)
        answer = operator.post("/queue/jobs/retry", data={"csrf_token": csrf})
        assert (answer.status_code, answer.headers["location"]) == (303, "/queue?tried=1")
