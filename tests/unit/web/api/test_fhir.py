from __future__ import annotations

from pathlib import Path

import httpx
from fhir.resources.R4B.bundle import Bundle
from pydicom import dcmwrite
from sqlalchemy import select

from tests.testbed import results
from tests.testbed.instances import later
from tests.testbed.rows import REPORT_SOP_CLASS
from worker.db import tokens
from worker.db.engine import Database
from worker.db.results import NewObject, queue_object
from worker.db.tables import ObjectKind, StudyResultRow, StudyRow, TokenRole
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
    uid = derive_uid("study", "a")
    with database.write() as session:
        _, token = tokens.add_token(session, "ehr of studies", TokenRole.READ, later(0), None)
        study = session.scalars(select(StudyRow).where(StudyRow.study_instance_uid == uid)).one()
        answer = StudyResultRow(
            study_id=study.id, number=9, model_id=1, input_sha256="0" * 64, status="classified", label="glioma",
            probability=0.9, probabilities={}, contributions=[], created_at=later(0),
        )  # fmt: skip
        session.add(answer)
        session.flush()
        study.answered_by = answer.id
    address = f"/api/v1/studies/{uid}/fhir"
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get(address, headers=headers).status_code == 404
    with database.write() as session:
        report = NewObject(ObjectKind.REPORT, REPORT_SOP_CLASS, "1.2.3", "objects/study-report", "00" * 32)
        queue_object(session, report, "1.2", [], later(0), study_result_id=answer.id)
    file = Path(str(database.engine.url.database)).parent / "objects" / "study-report"
    file.parent.mkdir(exist_ok=True)
    source, reported = results.source_headers()[0], results.STUDIES["no tumour"]
    dcmwrite(
        file, build_study_report(reported, results.MODEL, source, results.STUDY_IDENTITY), enforce_file_format=True
    )
    shown = client.get(address, headers=headers)
    assert (shown.status_code, shown.headers["content-type"]) == (200, "application/fhir+json")
    assert len(Bundle.model_validate_json(shown.text).entry) == 6
    assert client.get("/api/v1/studies/1.2.3/fhir", headers=headers).status_code == 404
