"""Deliveries to DICOMweb servers: Orthanc with its plugin, and one that misbehaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage
from sqlalchemy import select

from tests.testbed import dcmtk, orthanc
from tests.testbed.certificates import Certificates, make_certificates
from tests.testbed.dcmtk import free_port
from tests.testbed.dicomweb import DicomwebServer, server_context
from tests.testbed.instances import Clock
from tests.testbed.orthanc import Orthanc
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import DeliveryRow, DeliveryState
from worker.errors import Retry
from worker.ops.doctor import _destination
from worker.send.destinations.stow import StowDestination
from worker.send.sender import REJECTIONS_BEFORE_FAILED, Sender

needs_dicomweb = pytest.mark.skipif(
    orthanc.program() is None or orthanc.dicomweb_plugin() is None, reason="Orthanc or its DICOMweb plugin is missing"
)
needs_openssl = pytest.mark.skipif(not dcmtk.installed("openssl"), reason="openssl is not installed")
SEEN_BY_ORTHANC = (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)


@pytest.fixture
def server() -> Iterator[DicomwebServer]:
    with DicomwebServer() as server:
        yield server


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    archive = Orthanc(tmp_path_factory.mktemp("orthanc"), free_port(), "AI_WORKER", "ORTHANC", dicomweb=True)
    archive.start()
    yield archive
    archive.stop()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def _sender(database: Database, tmp_path: Path, clock: Clock, url: str, **changes: Any) -> Sender:
    destination = StowDestination(name="pacs", url=url, **changes)
    return Sender(destination, "AI_WORKER", database, tmp_path, clock)


def _deliveries(database: Database) -> list[DeliveryRow]:
    with database.read() as session:
        return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))


def _outcomes(database: Database) -> set[tuple[str, str | None]]:
    return {(delivery.state, delivery.reason) for delivery in _deliveries(database)}


DELIVERED = {(DeliveryState.DELIVERED, None)}


@needs_dicomweb
def test_orthanc_stores_report_and_picture_and_a_repeated_send_adds_nothing(
    database: Database, tmp_path: Path, clock: Clock, archive: Orthanc
) -> None:
    sender = _sender(database, tmp_path, clock, archive.dicomweb_url)
    assert sender.send_due() == 2
    assert _outcomes(database) == DELIVERED
    sent = [dcmread(path) for path in (tmp_path / "objects").rglob("*.dcm")]
    arrived = archive.files(SEEN_BY_ORTHANC, sent[0].StudyInstanceUID)
    assert set(arrived) == {ds.SOPInstanceUID for ds in sent}
    for ds in sent:
        path = tmp_path / "arrived.dcm"
        path.write_bytes(arrived[ds.SOPInstanceUID])
        assert dcmread(path) == ds
    with database.write() as session:  # as after a crash between the PACS's answer and our mark
        for row in session.scalars(select(DeliveryRow)):
            row.state = DeliveryState.PENDING
    assert sender.send_due() == 2
    assert _outcomes(database) == DELIVERED
    assert len(archive.instances(StudyInstanceUID=sent[0].StudyInstanceUID)) == 2


@needs_dicomweb
def test_doctor_distinguishes_a_dicomweb_server_from_another_url(archive: Orthanc) -> None:
    well = _destination(Settings(), StowDestination(name="pacs", url=archive.dicomweb_url))
    assert (well.well, well.detail) == (True, f"{archive.dicomweb_url} answers as a DICOMweb server")
    wrong = _destination(Settings(), StowDestination(name="pacs", url=f"{archive.dicomweb_url}/elsewhere"))
    assert not wrong.well
    assert "HTTP 404" in wrong.detail
    away = _destination(Settings(), StowDestination(name="pacs", url=f"http://127.0.0.1:{free_port()}/dicom-web"))
    assert "does not answer at" in away.detail


def _answer_with(server: DicomwebServer, answer: dict[str, Any]) -> None:
    for name, value in answer.items():
        setattr(server, name, value)


NO_SUCCESS: list[tuple[dict[str, Any], str, str]] = [
    ({"failure_reason": 0xA700}, "peer-out-of-resources", "out of resources (0xA700)"),
    ({"failure_reason": 0x0110}, "rejected", "0x0110 (processing failure)"),
    ({"failure_reason": 0xA900}, "rejected", "0xA900 (data set does not match the SOP class)"),
    ({"failure_reason": 0xC122}, "transfer-syntax-refused", "the peer does not accept Explicit VR Little Endian"),
    ({"status": 503}, "peer-unavailable", "HTTP 503 Service Unavailable"),
    ({"status": 507}, "peer-out-of-resources", "out of storage space (HTTP 507"),
    ({"status": 404}, "rejected", "HTTP 404 Not Found"),
    ({"token": "other"}, "not-authorised", "HTTP 401 Unauthorized"),
    ({"status": 200, "payload": b"<html>", "media_type": "text/html"}, "not-confirmed", "not that it stored"),
    ({"status": 200, "payload": b'{"00081199": 7}'}, "not-confirmed", "not that it stored"),
    ({"location": "/elsewhere"}, "rejected", "HTTP 302 Found"),
]


def test_an_answer_that_is_no_success_is_kept_with_its_reason_and_tried_again(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer
) -> None:
    sender = _sender(database, tmp_path, clock, server.url)
    for answer, reason, expected in NO_SUCCESS:
        before = {name: getattr(server, name) for name in answer}
        _answer_with(server, answer)
        assert sender.send_due() == 2
        assert _outcomes(database) == {(DeliveryState.PENDING, reason)}, answer
        assert expected in (_deliveries(database)[0].detail or ""), answer
        assert sender.send_due() == 0  # not before its backoff
        _answer_with(server, before)
        clock.ahead += timedelta(minutes=11)
    assert server.receipts == {}
    sender.send_due()
    assert _outcomes(database) == DELIVERED
    assert set(server.receipts.values()) == {1}


def test_what_is_rejected_again_and_again_is_failed_with_the_failure_reason(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer
) -> None:
    server.failure_reason = 0xC001
    sender = _sender(database, tmp_path, clock, server.url)
    for _ in range(REJECTIONS_BEFORE_FAILED):
        sender.send_due()
        clock.ahead += timedelta(minutes=11)
    assert {(delivery.state, delivery.status) for delivery in _deliveries(database)} == {(DeliveryState.FAILED, 0xC001)}
    assert {delivery.detail for delivery in _deliveries(database)} == {"the peer answered 0xC001 (cannot understand)"}


@pytest.mark.parametrize("reason", [0x0111, 45070])
def test_an_object_that_the_server_has_already_is_delivered(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer, reason: int
) -> None:
    """The answer to an earlier attempt was lost; the UID is derived, so it is this very object."""
    server.failure_reason = reason
    _sender(database, tmp_path, clock, server.url).send_due()
    assert _outcomes(database) == DELIVERED


def test_a_warning_is_stored_and_its_reason_kept(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer
) -> None:
    server.warning_reason = 0xB000
    server.media_type = "application/dicom+json; charset=utf-8"
    _sender(database, tmp_path, clock, server.url).send_due()
    assert {(delivery.state, delivery.status) for delivery in _deliveries(database)} == {
        (DeliveryState.DELIVERED, 0xB000)
    }
    assert set(server.hosts) == {f"127.0.0.1:{server.port}"}


def test_a_server_without_comprehensive_3d_sr_gets_a_comprehensive_sr(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer
) -> None:
    server.refused_class = Comprehensive3DSRStorage
    _sender(database, tmp_path, clock, server.url).send_due()
    assert _outcomes(database) == DELIVERED
    arrived = {ds.SOPClassUID: uid for uid, ds in server.stored.items()}
    assert set(arrived) == {ComprehensiveSRStorage, SecondaryCaptureImageStorage}
    assert {delivery.sent_as for delivery in _deliveries(database)} == set(arrived.values())


def test_a_class_that_is_refused_is_reported_by_name(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer
) -> None:
    server.refused_class = SecondaryCaptureImageStorage
    _sender(database, tmp_path, clock, server.url).send_due()
    report, picture = _deliveries(database)
    assert report.state == DeliveryState.DELIVERED
    assert (picture.reason, picture.status) == ("sop-class-refused", 0x0122)
    assert picture.detail == "the peer does not accept Secondary Capture Image Storage"


def test_a_server_that_is_silent_or_away_is_tried_until_it_answers(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer
) -> None:
    nobody = _sender(database, tmp_path, clock, f"http://127.0.0.1:{free_port()}/dicom-web")
    nobody.send_due()
    assert _outcomes(database) == {(DeliveryState.PENDING, "peer-unavailable")}
    clock.ahead += timedelta(minutes=11)
    server.goes_on.clear()
    _sender(database, tmp_path, clock, server.url, timeout_seconds=0.5).send_due()
    assert _outcomes(database) == {(DeliveryState.PENDING, "no-answer")}
    server.goes_on.set()  # the silent ones are stored now, and sent once more: the same objects
    clock.ahead += timedelta(minutes=11)
    _sender(database, tmp_path, clock, server.url).send_due()
    assert _outcomes(database) == DELIVERED
    assert len(server.stored) == 2


def test_the_token_is_read_anew_for_every_connection(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "renewed"
    monkeypatch.delenv("PACS_TOKEN", raising=False)
    from_variable = StowDestination(name="pacs", url=server.url, bearer_token_variable="PACS_TOKEN")
    with pytest.raises(Retry, match="PACS_TOKEN holds no bearer token"):
        from_variable.probe("AI_WORKER")
    monkeypatch.setenv("PACS_TOKEN", "renewed")
    from_variable.probe("AI_WORKER")
    file = tmp_path / "token"
    sender = _sender(database, tmp_path, clock, server.url, bearer_token_file=file)
    sender.send_due()
    assert _outcomes(database) == {(DeliveryState.PENDING, "token-missing")}
    file.write_text("old\n")
    clock.ahead += timedelta(minutes=11)
    sender.send_due()
    assert _outcomes(database) == {(DeliveryState.PENDING, "not-authorised")}
    file.write_text("renewed\n")
    clock.ahead += timedelta(minutes=11)
    sender.send_due()
    assert _outcomes(database) == DELIVERED


@needs_openssl
def test_tls_with_our_authority_and_certificate(
    database: Database, tmp_path: Path, clock: Clock, certificates: Certificates
) -> None:
    ours = dict(zip(("tls_certificate", "tls_key"), certificates.files("peer"), strict=True))
    stranger = dict(zip(("tls_certificate", "tls_key"), certificates.files("stranger"), strict=True))
    authority = {"tls_authority": certificates.authority}
    with DicomwebServer(server_context(*certificates.files("peer"), certificates.authority)) as server:
        for files in (ours, authority, stranger | authority, ours | {"tls_authority": stranger["tls_certificate"]}):
            _sender(database, tmp_path, clock, server.url, **files).send_due()
            assert {delivery.state for delivery in _deliveries(database)} == {DeliveryState.PENDING}
            clock.ahead += timedelta(minutes=11)
        assert server.receipts == {}
        localhost = f"https://localhost:{server.port}/dicom-web"  # a name that the certificate does not hold
        with pytest.raises(Retry, match=r"certificate is not accepted .*localhost"):
            StowDestination(name="pacs", url=localhost, **ours, **authority).probe("AI_WORKER")
        _sender(database, tmp_path, clock, server.url, **ours, **authority).send_due()
    assert _outcomes(database) == DELIVERED


def test_no_identifier_is_in_what_is_kept_of_a_failure(
    database: Database, tmp_path: Path, clock: Clock, server: DicomwebServer
) -> None:
    server.status, server.payload = 400, json.dumps({"message": "CANARY^NAME 1.2.3.4.5.6"}).encode()
    _sender(database, tmp_path, clock, server.url).send_due()
    assert {delivery.detail for delivery in _deliveries(database)} == {"the peer answered HTTP 400 Bad Request"}
