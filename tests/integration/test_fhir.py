"""Reports to a FHIR server: once each, however often they are sent, and nothing lost when it refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select

from tests.testbed import results
from tests.testbed.dcmtk import free_port
from tests.testbed.fhir_server import FhirServer
from tests.testbed.instances import Clock
from worker.db.engine import Database
from worker.db.tables import DeliveryRow, DeliveryState, ObjectKind, ObjectRow
from worker.dicom.standard import derive_uid
from worker.errors import Retry
from worker.reporting.sr import build_report
from worker.reporting.study_sr import build_study_report
from worker.results import ReportedStudy, SeriesResult
from worker.send.destinations.fhir import FhirDestination
from worker.send.fhir_client import connect
from worker.send.sender import Sender


@pytest.fixture
def server() -> Iterator[FhirServer]:
    with FhirServer() as server:
        yield server


def _destination(url: str, **changes: Any) -> FhirDestination:
    return FhirDestination(name="pacs", fhir=True, url=url, **changes)


def _outcomes(database: Database) -> dict[str, tuple[str, str | None]]:
    """State and reason of the delivery of each kind of object."""
    with database.read() as session:
        rows = session.execute(
            select(ObjectRow.kind, DeliveryRow.state, DeliveryRow.reason).join(
                DeliveryRow, DeliveryRow.object_id == ObjectRow.id
            )
        )
        return {kind: (state, reason) for kind, state, reason in rows}


def test_a_report_is_there_once_however_often_it_is_sent(
    database: Database, tmp_path: Path, clock: Clock, server: FhirServer
) -> None:
    server.token = "secret"
    (tmp_path / "token").write_text("secret\n")
    sender = Sender(
        _destination(server.url, bearer_token_file=tmp_path / "token"), "AI_WORKER", database, tmp_path, clock
    )
    assert sender.send_due() == 2
    assert _outcomes(database) == {
        ObjectKind.REPORT: (DeliveryState.DELIVERED, None),
        ObjectKind.PICTURE: (DeliveryState.FAILED, "not-a-report"),  # made for a destination that was a PACS then
    }
    first = dict(server.resources)
    with database.write() as session:  # as after a crash between the server's answer and our mark
        for row in session.scalars(select(DeliveryRow)):
            row.state = DeliveryState.PENDING
    sender.send_due()
    assert server.updates == 2
    assert server.resources == first
    [report], [device] = server.of_type("DiagnosticReport"), server.of_type("Device")
    assert report["result"][0]["reference"] in first
    assert {resource["device"]["reference"] for resource in server.of_type("Observation")} == {
        reference for reference, resource in first.items() if resource == device
    }


NO_SUCCESS: list[tuple[dict[str, Any], str]] = [
    ({"status": 503}, "peer-unavailable"),
    ({"status": 422}, "rejected"),
    ({"status": 302}, "rejected"),
    ({"token": "another"}, "not-authorised"),
    ({"status": 200, "payload": b"<html>"}, "not-confirmed"),
    ({"status": 200, "payload": b"[]"}, "not-confirmed"),
    ({"status": 200, "payload": b'{"resourceType": "OperationOutcome"}'}, "not-confirmed"),
]


def test_what_is_not_confirmed_is_sent_again(
    database: Database, tmp_path: Path, clock: Clock, server: FhirServer
) -> None:
    sender = Sender(_destination(server.url), "AI_WORKER", database, tmp_path, clock)
    for answer, reason in NO_SUCCESS:
        server.status, server.payload, server.token = None, b"", None
        for name, value in answer.items():
            setattr(server, name, value)
        sender.send_due()
        assert _outcomes(database)[ObjectKind.REPORT] == (DeliveryState.PENDING, reason)
        clock.ahead += timedelta(hours=1)
    server.status = None
    sender.send_due()
    assert _outcomes(database)[ObjectKind.REPORT] == (DeliveryState.DELIVERED, None)


def _report(name: str, minutes: int, result: SeriesResult, predecessors: Sequence[Dataset] = ()) -> Dataset:
    arguments = results.ARGUMENTS | {
        "sop_instance_uid": derive_uid("test", name),
        "created_at": results.CREATED_AT + timedelta(minutes=minutes),
    }
    return build_report(result, results.MODEL, results.source_headers(), **arguments, predecessors=predecessors)


def test_a_revised_report_takes_the_place_of_the_first_also_when_that_comes_late(server: FhirServer) -> None:
    sources = results.source_headers()
    first = _report("first", 0, results.classified(sources))
    second = _report("second", 5, results.not_assessed(sources), predecessors=[first])
    with closing(connect(_destination(server.url))) as peer:
        peer.store(first)
        before = dict(server.resources)
        assert server.of_type("Observation")[0]["contained"]
        peer.store(second)
        assert server.resources.keys() == before.keys()
        [report], [observation] = server.of_type("DiagnosticReport"), server.of_type("Observation")
        assert report["identifier"][1]["value"].endswith(second.SOPInstanceUID)
        assert "Not assessed" in report["conclusion"]
        assert "contained" not in observation
        after = dict(server.resources)
        assert peer.store(first) == (0, first.SOPInstanceUID)
        assert server.resources == after


def test_the_reports_of_a_study_are_valid_and_a_late_series_and_a_correction_replace_them() -> None:
    schema = Path(os.environ.get("FHIR_VALIDATORS", Path(__file__).parents[2] / "var" / "fhir")) / "fhir.schema.json"
    source, series = results.source_headers()[0], results.series_said
    t1, late = series(2, "glioma", sequence="T1", weight=1.0), series(3, "glioma", sequence="FLAIR", weight=0.5)
    first, second, third = (
        _study_report(minutes, results.reported_study(said), source)
        for minutes, said in enumerate(([t1], [t1, late], [late]))
    )
    with (
        FhirServer(schema if schema.is_file() else None) as server,
        closing(connect(_destination(server.url))) as peer,
    ):
        peer.store(first)
        before = dict(server.resources)
        [report] = server.of_type("DiagnosticReport")
        assert [server.resources[item["reference"]]["resourceType"] for item in report["result"]] == ["Observation"] * 2
        peer.store(second)
        assert peer.store(first) == (0, first.SOPInstanceUID), "it came late: nothing changes"
        [report] = server.of_type("DiagnosticReport")
        assert report["identifier"][1]["value"].endswith(second.SOPInstanceUID)
        assert len(report["result"]) == 3
        assert len(server.resources) == len(before) + 1
        peer.store(third)
        [report] = server.of_type("DiagnosticReport")
        _, only = [server.resources[item["reference"]]["note"][0]["text"] for item in report["result"]]
        assert only.startswith("series 3")
        statuses = {item["identifier"][0]["value"]: item["status"] for item in server.of_type("Observation")}
        assert sorted(statuses.values()) == ["entered-in-error", "preliminary", "preliminary"], (
            "series 2 left the study"
        )
        peer.store(third)
        assert len(server.of_type("Observation")) == 3
        server.readable = False
        fourth = _study_report(3, results.reported_study([t1]), source)
        assert peer.store(fourth) == (0, fourth.SOPInstanceUID), "what we may not read withholds no report"


def _study_report(minutes: int, study: ReportedStudy, source: Dataset) -> Dataset:
    made = results.CREATED_AT + timedelta(minutes=minutes)
    uid = derive_uid("test", "study report", str(minutes))
    identity = replace(results.STUDY_IDENTITY, sop_instance_uid=uid, created_at=made)
    return build_study_report(study, results.MODEL, source, identity)


def test_a_server_that_is_unreachable_is_retried(database: Database, tmp_path: Path, clock: Clock) -> None:
    away = _destination(f"http://127.0.0.1:{free_port()}/fhir")
    Sender(away, "AI_WORKER", database, tmp_path, clock).send_due()
    assert _outcomes(database)[ObjectKind.REPORT] == (DeliveryState.PENDING, "peer-unavailable")


def test_echo_distinguishes_a_fhir_server_of_r4_from_others(server: FhirServer) -> None:
    there = _destination(server.url)
    there.probe("AI_WORKER")
    assert there.describe().answer == f"{server.url} answers as a FHIR R4 server"
    server.version = "3.0.2"
    for wrong in (there, _destination(f"{server.url}/elsewhere")):
        with pytest.raises(Retry, match="not-fhir"):
            wrong.probe("AI_WORKER")
