from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.testbed.web_site import API
from worker.dicom.standard import derive_uid


def _names(answer: Any) -> str:
    return "".join(series["patient_id"][-1] for series in answer.json()["series"])


def test_series_are_all_and_results_only_what_a_model_answered(client: httpx.Client) -> None:
    assert _names(client.get(f"{API}/series")) == "dcba"
    assert _names(client.get(f"{API}/results")) == "a"
    refused = client.get(f"{API}/series", params={"status": "refused"}).json()["series"]
    assert [(series["reason"], series["detail"]) for series in refused] == [("modality", "modality CT")]


def test_pages_follow_one_another_in_both_directions(client: httpx.Client) -> None:
    first = client.get(f"{API}/series", params={"limit": 3})
    second = client.get(first.json()["older"])
    assert (_names(first), _names(second)) == ("dcb", "a")
    assert (first.json()["newer"], second.json()["older"]) == (None, None)
    assert _names(client.get(second.json()["newer"])) == "dcb"


def test_a_position_beyond_the_end_is_an_empty_page(client: httpx.Client) -> None:
    answer = client.get(f"{API}/series", params={"older_than": "0-1"})
    assert (answer.status_code, answer.json()["series"], answer.json()["older"]) == (200, [], None)


def test_one_series_comes_with_its_slices(client: httpx.Client) -> None:
    answer = client.get(f"{API}/results/{derive_uid('series', 'a')}").json()
    assert (answer["series"]["label"], answer["series"]["missing"]) == ("glioma", "2 of the 3 images came")
    assert [slice_["deciding"] for slice_ in answer["slices"]] == [True]
    assert client.get(f"{API}/results/{derive_uid('series', 'nobody')}").status_code == 404


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID-a", "a"),
        ("id-", "dcba"),
        ("Family^c", "dcba"),  # words in any order, and "c" is in ACC-
        ("ACC-", "dcba"),
        (derive_uid("series", "b"), "b"),
        ("%", ""),
        ("_D-a", ""),
        ("I*", "dcba"),
        ("' OR '1'='1", ""),
    ],
)
def test_a_text_is_matched_literally(client: httpx.Client, text: str, expected: str) -> None:
    assert _names(client.get(f"{API}/series", params={"text": text})) == expected


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


def test_a_refused_series_is_settled_again_once(client: httpx.Client) -> None:
    [refused] = client.get(f"{API}/series", params={"status": "refused"}).json()["series"]
    uid = refused["series_instance_uid"]
    shown = client.get(f"{API}/series/{uid}").json()
    assert (shown["series"]["status"], shown["refused"]) == ("refused", [])
    assert client.post(f"{API}/series/{uid}/reconsider").json() == {"series_instance_uid": uid}
    assert client.get(f"{API}/series/{uid}").json()["series"]["status"] == "pending"
    assert client.post(f"{API}/series/{uid}/reconsider").status_code == 409
    assert client.post(f"{API}/series/1.2.3/reconsider").status_code == 404


def test_an_answered_series_is_classified_by_another_model_that_this_host_has(client: httpx.Client) -> None:
    uid = derive_uid("series", "a")
    sha256 = client.get(f"{API}/series/{uid}").json()["series"]["model_sha256"]
    classify = f"{API}/series/{uid}/classify"
    same = client.post(classify, params={"model": sha256})
    assert (same.status_code, "has a job for these images already" in same.text) == (409, True)
    assert client.post(classify, params={"model": "ef" * 32}).status_code == 404
    assert client.post(classify, params={"model": "1.0"}).status_code == 422
    assert client.post(f"{API}/series/1.2.3/classify", params={"model": sha256}).status_code == 404
