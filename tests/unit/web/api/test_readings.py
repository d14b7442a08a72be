from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from worker.dicom.standard import derive_uid

CLASSIFIED, REFUSED, FAILED = (derive_uid("series", name) for name in "abc")


def _path(series: str) -> str:
    return f"/api/v1/series/{series}/readings"


def test_a_label_is_corrected_then_confirmed_and_both_are_kept(client: httpx.Client) -> None:
    empty = client.get(_path(CLASSIFIED)).json()
    assert (empty["readings"], empty["after"]) == ([], 0)
    assert set(empty["labels"]) == {"glioma", "notumor", "tumor", "other", "not-assessable"}
    entry = {"label": "notumor", "after": 0, "result": empty["result"], "comment": "flow artefact"}
    first = client.post(_path(CLASSIFIED), json=entry)
    assert (first.status_code, first.json()["state"], first.json()["answer"]) == (201, "corrected", "glioma")
    assert _series_in_state(client, "corrected") == [CLASSIFIED]
    second = client.post(_path(CLASSIFIED), json=entry | {"label": "glioma", "after": 1, "slices": [0], "comment": ""})
    assert second.json() | {"read_at": ""} == {
        "number": 2, "label": "glioma", "state": "confirmed", "comment": "", "slices": [0],
        "reader": "anybody on this machine", "read_at": "", "result": empty["result"], "answer": "glioma",
        "model": "test-model 1.0", "withdrawn_at": None,
    }  # fmt: skip
    listed = client.get(_path(CLASSIFIED)).json()
    assert [reading["comment"] for reading in listed["readings"]] == ["", "flow artefact"]
    assert listed["after"] == 2
    assert (_series_in_state(client, "confirmed"), _series_in_state(client, "corrected")) == ([CLASSIFIED], [])
    assert CLASSIFIED not in _series_in_state(client, "unread")
    [shown] = client.get("/api/v1/series", params={"reading": "confirmed"}).json()["series"]
    assert (shown["reading"], shown["read_as"]) == ("confirmed", "glioma")
    assert "read as Glioma" in client.get("/?reading=corrected").text, "its study is not answered yet"
    assert client.delete(f"{_path(CLASSIFIED)}/1").status_code == 409, "another one stands"
    assert client.delete(f"{_path(CLASSIFIED)}/2").status_code == 204
    assert _series_in_state(client, "corrected") == [CLASSIFIED]
    assert client.delete(f"{_path(CLASSIFIED)}/1").status_code == 204
    assert CLASSIFIED in _series_in_state(client, "unread")
    listed = client.get(_path(CLASSIFIED)).json()
    assert [reading["withdrawn_at"] is None for reading in listed["readings"]] == [False, False]
    assert listed["after"] == 2
    assert client.post(_path(CLASSIFIED), json=entry | {"after": 2}).json()["number"] == 3
    assert _series_in_state(client, "corrected") == [CLASSIFIED]


def _series_in_state(client: httpx.Client, state: str) -> list[str]:
    answer = client.get("/api/v1/series", params={"reading": state}).json()
    return [series["series_instance_uid"] for series in answer["series"]]


def test_a_series_without_an_answer_can_be_read(client: httpx.Client) -> None:
    listed = client.get(_path(FAILED)).json()
    assert listed["result"] is None
    answer = client.post(_path(FAILED), json={"label": "not-assessable", "after": 0})
    assert (answer.status_code, answer.json()["state"], answer.json()["result"]) == (201, "confirmed", None)


def test_of_readers_at_once_one_is_recorded_and_the_others_are_told(client: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda n: client.post(_path(REFUSED), json={"label": "other", "after": 0, "comment": str(n)}), range(4)
            )
        )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    detail = next(answer.json()["detail"] for answer in answers if answer.status_code == 409)
    assert "has read this series since you looked at it" in detail
    assert len(client.get(_path(REFUSED)).json()["readings"]) == 1


@pytest.mark.parametrize(
    ("change", "detail"),
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
def test_an_invalid_reading_is_a_problem(client: httpx.Client, change: dict[str, object], detail: str) -> None:
    result = client.get(_path(CLASSIFIED)).json()["result"]
    answer = client.post(_path(CLASSIFIED), json={"label": "glioma", "after": 0, "result": result} | change)
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]


def test_an_answer_that_came_meanwhile_is_looked_at_first(client: httpx.Client) -> None:
    answer = client.post(_path(CLASSIFIED), json={"label": "glioma", "after": 0, "result": None})
    assert (answer.status_code, "was answered since" in answer.json()["detail"]) == (409, True)


def test_a_series_that_was_not_received_is_not_read(client: httpx.Client) -> None:
    assert client.get(_path("1.2.3")).status_code == 404
    assert client.post(_path("1.2.3"), json={"label": "glioma", "after": 0}).status_code == 404


def test_a_study_is_read_and_its_only_series_with_it(client: httpx.Client) -> None:
    path = f"/api/v1/studies/{derive_uid('study', 'd')}/readings"
    empty = client.get(path).json()
    assert (empty["readings"], empty["after"], empty["result"]) == ([], 0, None)
    first = client.post(path, json={"label": "glioma", "after": 0, "comment": "large"})
    assert (first.status_code, first.json()["label"], first.json()["comment"]) == (201, "glioma", "large")
    assert client.post(path, json={"label": "glioma", "after": 0}).status_code == 409
    assert client.post(path, json={"label": "x", "after": 1}).status_code == 422
    assert client.post(path, json={"label": "glioma", "after": 1, "result": 99}).status_code == 422
    assert [reading["number"] for reading in client.get(path).json()["readings"]] == [1]
    inherited = client.get(_path(derive_uid("series", "d"))).json()["readings"]
    assert [(reading["label"], reading["comment"]) for reading in inherited] == [("glioma", "large")]
    assert client.get("/api/v1/studies/1.2.3/readings").status_code == 404
    assert client.post("/api/v1/studies/1.2.3/readings", json={"label": "glioma", "after": 0}).status_code == 404
