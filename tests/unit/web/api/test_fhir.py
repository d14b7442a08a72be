from __future__ import annotations

from pathlib import Path

import httpx
from fhir.resources.R4B.bundle import Bundle
from pydicom import dcmwrite
from sqlalchemy import delete

from tests.testbed import results
from tests.testbed.instances import later
from tests.testbed.studies import STUDY, classify, report_study
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import StudyRow, TokenRole
from worker.dicom.standard import derive_uid
from worker.reporting.sr import build_report
from worker.reporting.study_sr import build_study_report


def url(series: str) -> str:
    return f"/api/v1/series/{derive_uid('series', series)}/fhir"


def test_the_report_of_a_series_comes_as_fhir(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    assert client.get(url("a")).status_code == 401
    with database.write() as session:
        _, token = tokens.add_token(session, "ehr", TokenRole.READ, later(0), None)
    sources = results.source_headers()
    file = Path(str(database.engine.url.database)).parent / "objects" / "x"
    file.parent.mkdir()
    report = build_report(results.classified(sources), results.MODEL, sources, **results.ARGUMENTS)
    dcmwrite(file, report, enforce_file_format=True)
    answer = client.get(url("a"), headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/fhir+json")
    assert Bundle.model_validate_json(answer.text).entry[0].resource.status == "partial"


def test_a_series_without_a_report_has_none(client: httpx.Client) -> None:
    for series, detail in (
        ("b", "no model has answered"),
        ("d", "no model has answered"),
        ("nobody", "no such series"),
    ):
        answer = client.get(url(series))
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert detail in answer.json()["detail"]


def test_a_report_whose_file_is_gone_is_told(client: httpx.Client) -> None:
    answer = client.get(url("a"))
    assert "data folder" in answer.text
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_the_report_of_a_study_comes_as_fhir(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    with database.write() as session:
        _, token = tokens.add_token(session, "ehr", TokenRole.READ, later(0), None)
        session.execute(delete(StudyRow))
    headers = {"Authorization": f"Bearer {token}"}
    classify(database, "of-study")
    assert client.get(f"/api/v1/studies/{STUDY}/fhir", headers=headers).status_code == 404
    report_study(database, "study-report")
    file = Path(str(database.engine.url.database)).parent / "objects" / "study-report"
    file.parent.mkdir(exist_ok=True)
    source, study = results.source_headers()[0], results.STUDIES["no tumour"]
    dcmwrite(file, build_study_report(study, results.MODEL, source, results.STUDY_IDENTITY), enforce_file_format=True)
    answer = client.get(f"/api/v1/studies/{STUDY}/fhir", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/fhir+json")
    assert len(Bundle.model_validate_json(answer.text).entry) == 6
    assert client.get("/api/v1/studies/1.2.3/fhir", headers=headers).status_code == 404
