"""Studies over HTTP."""

from __future__ import annotations

import httpx

from tests.testbed.web_site import API
from worker.dicom.standard import derive_uid


def test_studies_are_listed_page_by_page(client: httpx.Client) -> None:
    first = client.get(f"{API}/studies", params={"limit": 2}).json()
    second = client.get(first["older"]).json()
    patients = [study["patient_id"] for study in (*first["studies"], *second["studies"])]
    assert patients == ["ID-d", "ID-c", "ID-b", "ID-a"]
    assert second["older"] is None


def test_a_study_comes_with_its_series(client: httpx.Client) -> None:
    study = client.get(f"{API}/studies/{derive_uid('study', 'a')}").json()
    assert (study["state"], study["label"], study["revision"]) == ("open", None, None)
    assert [(series["label"], series["weight"]) for series in study["series"]] == [("glioma", None)]


def test_an_unknown_study_is_none(client: httpx.Client) -> None:
    assert client.get(f"{API}/studies/1.2.3").status_code == 404
    assert client.get(f"{API}/studies/nobody").status_code == 422
    assert client.get(f"{API}/studies", params={"limit": 0}).status_code == 422
