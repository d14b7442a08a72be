from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.dicom.standard import derive_uid

API = "/api/v1"


def _names(answer: Any) -> str:
    return "".join(one["patient_id"][-1] for one in answer.json()["series"])


def test_series_are_all_and_results_only_what_a_model_answered(client: httpx.Client) -> None:
    assert _names(client.get(f"{API}/series")) == "dcba"
    assert _names(client.get(f"{API}/results")) == "a"
    refused = client.get(f"{API}/series", params={"status": "refused"}).json()["series"]
    assert [(one["reason"], one["detail"]) for one in refused] == [("modality", "modality CT")]


def test_pages_follow_one_another_in_both_directions(client: httpx.Client) -> None:
    first = client.get(f"{API}/series", params={"limit": 3})
    second = client.get(first.json()["older"])
    assert (_names(first), _names(second)) == ("dcb", "a")
    assert (first.json()["newer"], second.json()["older"]) == (None, None)
    assert _names(client.get(second.json()["newer"])) == "dcb"


def test_a_place_beyond_the_end_is_an_empty_page(client: httpx.Client) -> None:
    answer = client.get(f"{API}/series", params={"older_than": "0-1"})
    assert (answer.status_code, answer.json()["series"], answer.json()["older"]) == (200, [], None)


def test_one_series_comes_with_its_slices(client: httpx.Client) -> None:
    answer = client.get(f"{API}/results/{derive_uid('series', 'a')}").json()
    assert (answer["series"]["label"], answer["series"]["missing"]) == ("glioma", "2 of the 3 images came")
    assert [one["deciding"] for one in answer["slices"]] == [True]
    assert client.get(f"{API}/results/{derive_uid('series', 'nobody')}").status_code == 404


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ID-a", "a"),
        ("id-", "dcba"),
        ("Family^c", "c"),
        ("ACC-", "dcba"),
        (derive_uid("series", "b"), "b"),
        ("%", ""),
        ("_D-a", ""),
        ("I*", ""),
        ("' OR '1'='1", ""),
    ],
)
def test_a_text_is_found_as_it_is(client: httpx.Client, text: str, found: str) -> None:
    assert _names(client.get(f"{API}/series", params={"text": text})) == found


@pytest.mark.parametrize(
    ("path", "at_fault"),
    [
        ("series?limit=0", "limit"),
        ("series?limit=1000000", "limit"),
        ("series?pateint_id=x", "pateint_id: there is no such parameter"),
        ("series?older_than=yesterday", "older_than"),
        ("series?since=soon", "since"),
        ("series?minimum_probability=nan", "minimum_probability"),
        ("series?status=fine", "status"),
        ("series?text=a%00b", "text"),
        ("series/..%2Fetc", "Not Found"),
        ("jobs?after=99999999999999999999", "after"),
        ("jobs?state=done", "state"),
    ],
)
def test_bad_input_is_a_problem_that_names_the_parameter(client: httpx.Client, path: str, at_fault: str) -> None:
    answer = client.get(f"{API}/{path}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == answer.json()["status"]
    assert 400 <= answer.status_code < 500
    assert at_fault in answer.json()["detail"]


def test_a_parked_job_is_retried_once(client: httpx.Client) -> None:
    [job] = client.get(f"{API}/jobs", params={"state": "parked"}).json()["jobs"]
    again = f"{API}/jobs/{job['number']}/retry"
    assert client.post(again).json() == {"retried": [job["number"]]}
    assert client.post(again).status_code == 409
    assert client.post(f"{API}/jobs/424242/retry").status_code == 404
    waiting = client.get(f"{API}/series", params={"status": "pending"})
    assert _names(waiting) == "dc"


def test_deliveries_are_listed_and_tried_now(client: httpx.Client) -> None:
    [one] = client.get(f"{API}/deliveries").json()["deliveries"]
    assert client.post(f"{API}/deliveries/{one['number']}/retry").json() == {"retried": [one["number"]]}
    assert client.post(f"{API}/deliveries/retry").json() == {"retried": []}
    assert client.post(f"{API}/deliveries/424242/retry").status_code == 404


def test_a_destination_that_does_not_answer_says_why(client: httpx.Client) -> None:
    [one] = client.get(f"{API}/destinations").json()
    assert (one["name"], one["address"]) == ("pacs", "127.0.0.1:9")
    answer = client.post(f"{API}/destinations/pacs/echo").json()
    assert (answer["answers"], answer["reason"]) == (False, "peer-unavailable")
    assert client.post(f"{API}/destinations/nobody/echo").status_code == 404


def test_models_are_listed(client: httpx.Client) -> None:
    assert [one["name"] for one in client.get(f"{API}/models").json()] == ["test-model"]


def test_the_page_describes_every_operation_of_the_openapi_document(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    page = client.get("/api").text
    assert all(f"<code>{path}</code>" in page for path in document["paths"])
    assert f"{API}/series" in document["paths"]


_VALUES = st.one_of(
    st.text(max_size=80), st.integers().map(str), st.floats().map(str), st.dates().map(str),
    st.sampled_from(["", "%", "../..", "classified", "glioma", "0-0", "9" * 17 + "-" + "9" * 18, "\x00", "1.2.3"]),
)  # fmt: skip


def test_no_request_makes_the_server_fail(client: httpx.Client) -> None:
    """Any values for the documented parameters: an answer that the document allows, never a 5xx."""
    operations = [
        (method, path, one)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method, one in methods.items()
        if path.startswith(API)
    ]
    assert len(operations) >= 13

    @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        method, path, one = data.draw(st.sampled_from(operations))
        query = {}
        for parameter in one.get("parameters", []):
            value = data.draw(_VALUES)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", _quoted(value))
            elif data.draw(st.booleans()):
                query[parameter["name"]] = value
        answer = client.request(method, path, params=query)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        assert str(answer.status_code) in {*one["responses"], "307", "404", "405"}

    ask()


def _quoted(value: str) -> str:
    return quote(value.encode("utf-8", "replace"), safe="")
