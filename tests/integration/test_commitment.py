"""Storage commitment both ways, with Orthanc: it commits to our reports, we commit to its series."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt
from sqlalchemy import select

from tests.faults import wire
from tests.testbed import orthanc
from tests.testbed.dcmtk import free_port
from tests.testbed.instances import Clock, write_series
from tests.testbed.orthanc import Orthanc
from tests.testbed.waiting import wait_until
from worker.config.sections import PeerSection, ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import Commitment, DeliveryRow, DeliveryState, InstanceRow
from worker.dicom import commitment, standard
from worker.receive import commitment_scp
from worker.receive.storage_scp import Receiver
from worker.send.destinations.c_store import CStoreDestination
from worker.send.sender import Sender
from worker.send.storage_scu import SOP_CLASSES

needs_orthanc = pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def archive(tmp_path: Path, port: int) -> Iterator[Orthanc]:
    archive = Orthanc(tmp_path / "orthanc", port, "AI_WORKER", "ORTHANC")
    archive.start()
    yield archive
    archive.stop()


def _destination(port: int, **changes: Any) -> CStoreDestination:
    place: dict[str, Any] = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port}
    return CStoreDestination(**place | {"storage_commitment": True, "timeout_seconds": 10} | changes)


@pytest.fixture
def receiver(tmp_path: Path, port: int, database: Database, request: pytest.FixtureRequest) -> Iterator[Receiver]:
    """Our SCP, which knows Orthanc as a destination where the test has one."""
    known = (_destination(request.getfixturevalue("archive").port),) if "archive" in request.fixturenames else ()
    receive = ReceiveSection(host="127.0.0.1", port=port, minimum_free_bytes=0)
    settings = Settings(worker=WorkerSection(data_dir=tmp_path), receive=receive, destination=known)
    receiver = Receiver(settings, database, lambda: datetime.now(UTC))
    receiver.start()
    yield receiver
    receiver.stop(1)


def _deliveries(database: Database) -> list[DeliveryRow]:
    with database.read() as session:
        return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))


def _commitments(database: Database) -> set[str | None]:
    return {delivery.commitment for delivery in _deliveries(database)}


@needs_orthanc
def test_orthanc_commits_to_what_it_was_sent(
    database: Database, tmp_path: Path, archive: Orthanc, receiver: Receiver
) -> None:
    """Orthanc reports on a new association, so this shows our SCP in that role too."""
    sender = Sender(_destination(archive.port), "AI_WORKER", database, tmp_path, Clock())
    sender.send_due()
    assert _commitments(database) == {Commitment.DUE}
    assert sender.request_commitment() == 2
    wait_until(lambda: _commitments(database) == {Commitment.CONFIRMED}, "the commitment report", 20, every=0.05)
    assert sender.request_commitment() == 0


@needs_orthanc
def test_what_orthanc_lost_is_sent_again(
    database: Database, tmp_path: Path, archive: Orthanc, receiver: Receiver
) -> None:
    sender = Sender(_destination(archive.port), "AI_WORKER", database, tmp_path, Clock())
    sender.send_due()
    study = next(iter((tmp_path / "objects").rglob("*.dcm")))
    archive.delete_study(dcmread(study).StudyInstanceUID)
    sender.request_commitment()
    wait_until(
        lambda: {delivery.state for delivery in _deliveries(database)} == {DeliveryState.PENDING},
        "the delivery to wait again",
        20,
        every=0.05,
    )
    assert {delivery.reason for delivery in _deliveries(database)} == {"commitment-failed"}
    assert sender.send_due() == 2
    sender.request_commitment()
    wait_until(lambda: _commitments(database) == {Commitment.CONFIRMED}, "the commitment report", 20, every=0.05)


@needs_orthanc
def test_we_commit_to_what_is_on_disk_and_to_nothing_else(
    database: Database, tmp_path: Path, archive: Orthanc, receiver: Receiver
) -> None:
    paths = write_series(tmp_path / "series", 3, "sent")
    archive.upload(paths)
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    archive.send_series(headers[0].SeriesInstanceUID)
    with database.read() as session:
        rows = {row.sop_instance_uid: row for row in session.scalars(select(InstanceRow))}
    (tmp_path / rows[headers[1].SOPInstanceUID].path).write_bytes(b"damaged")
    (tmp_path / rows[headers[2].SOPInstanceUID].path).unlink()
    asked = [(str(header.SOPClassUID), str(header.SOPInstanceUID)) for header in headers] + [
        (headers[0].SOPClassUID, "1.2.3.4")
    ]
    answer = archive.commit(asked)
    assert answer["Status"] == "Failure"
    assert [instance["SOPInstanceUID"] for instance in answer["Success"]] == [headers[0].SOPInstanceUID]
    reasons = {instance["SOPInstanceUID"]: instance["FailureReason"] for instance in answer["Failures"]}
    assert reasons == {
        headers[1].SOPInstanceUID: 0x0110,
        headers[2].SOPInstanceUID: 0x0110,
        "1.2.3.4": commitment.NO_SUCH_OBJECT,
    }


def test_a_peer_that_is_no_destination_gets_the_report_on_its_own_association(
    database: Database, port: int, receiver: Receiver
) -> None:
    told: list[Dataset] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        told.append(event.event_information)
        return 0x0000, None

    ae = AE(ae_title="STRANGER")
    ae.add_requested_context(commitment.SOP_CLASS)
    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER", evt_handlers=handlers)
    wanted = commitment.build_request("1.2.3", [(SOP_CLASSES[0], "1.2.3.4")])
    answer, _ = assoc.send_n_action(wanted, 1, commitment.SOP_CLASS, commitment.SOP_INSTANCE)
    assert answer.Status == 0x0000
    wait_until(lambda: told, "the report", 20, every=0.05)
    assoc.release()
    report = commitment.read_report(told[0])
    assert (report.transaction_uid, report.committed) == ("1.2.3", frozenset())
    assert report.failed == {"1.2.3.4": commitment.NO_SUCH_OBJECT}


def _request(port: int, ae_title: str, references: int, transactions: int = 1) -> tuple[list[int], Any]:
    """The statuses of N-ACTIONs, and the association over which they went."""
    ae = AE(ae_title=ae_title)
    ae.add_requested_context(commitment.SOP_CLASS)
    assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
    instances = [(SOP_CLASSES[0], f"1.2.3.{number}") for number in range(references)]
    statuses = []
    for number in range(transactions):
        wanted = commitment.build_request(f"1.2.{number}", instances)
        answer, _ = assoc.send_n_action(wanted, 1, commitment.SOP_CLASS, commitment.SOP_INSTANCE)
        statuses.append(answer.Status)
    return statuses, assoc


def test_a_request_that_crosses_our_report_is_answered_after_it(port: int, receiver: Receiver) -> None:
    information = wire.implicit(commitment.build_request("1.2.3", [("1.2.840.10008.5.1.4.1.1.4", "1.2.4")]))
    answer = Dataset()
    answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID = commitment.SOP_CLASS, commitment.SOP_INSTANCE
    answer.CommandField, answer.MessageIDBeingRespondedTo, answer.CommandDataSetType = 0x8100, 1, 0x0101
    answer.Status, answer.EventTypeID = standard.SUCCESS, commitment.SOME_FAILED_EVENT
    body = wire.implicit(answer)
    accepted = struct.pack("<HHII", 0x0000, 0x0000, 4, len(body)) + body
    with wire.Wire(port) as peer:
        [context] = peer.associate([(commitment.SOP_CLASS, ImplicitVRLittleEndian)])

        def send(content: bytes, command: bool) -> None:
            for part in wire.data_pdus(context, content, command):
                peer.send(part)

        def request(number: int) -> None:
            send(wire.action_command(number), True)
            send(information, False)

        request(1)
        for number in (2, 3):
            assert wire.status_of(peer.receive()[1]) == standard.SUCCESS
            report = [peer.receive(), peer.receive()]
            assert {kind for kind, _ in report} == {wire.DATA}
            request(number)  # before the report is answered
            send(accepted, True)
        assert wire.status_of(peer.receive()[1]) == standard.SUCCESS


def _commitment_threads() -> int:
    return sum(thread.name == "commitment" for thread in threading.enumerate())


def test_too_many_references_are_refused_undecoded(
    port: int, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment_scp, "MAXIMUM_REFERENCES", 10)
    statuses, assoc = _request(port, "STRANGER", references=11)
    assert statuses == [standard.RESOURCE_LIMITATION]
    assoc.release()


def test_a_peer_has_few_open_requests_and_they_take_few_threads(
    port: int, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted is answered or forgotten; the threads do not outnumber their bound."""
    wait = threading.Event()
    examined: list[str] = []

    def examine(*arguments: Any) -> Dataset:
        wait.wait(30)
        examined.append(arguments[2])
        return commitment.build_report(arguments[2], [], [])

    answered: list[Any] = []

    def send_report(assoc: Any, information: Dataset) -> None:
        try:
            sent(assoc, information)
        finally:
            if assoc.is_established:
                answered.append(assoc)

    sent = commitment_scp.send_report
    monkeypatch.setattr(commitment_scp, "send_report", send_report)
    monkeypatch.setattr(commitment_scp, "examine", examine)
    before = _commitment_threads()
    statuses, assoc = _request(port, "STRANGER", references=1, transactions=12)
    assert statuses == [standard.SUCCESS] * 8 + [standard.RESOURCE_LIMITATION] * 4
    assert _commitment_threads() - before == 2
    assoc.abort()
    wait.set()
    polls: list[Any] = []

    def is_accepted_again() -> bool:
        statuses, poll = _request(port, "STRANGER", references=1)
        polls.append(poll)
        return statuses == [standard.SUCCESS]

    wait_until(is_accepted_again, "the requests to be forgotten", 20, every=0.05)
    assert len(examined) <= 2 + len(polls)  # a report that nobody can get is not made
    wait_until(lambda: answered, "the report of the accepted request")  # its peer must not abort while it answers
    for poll in polls:
        poll.abort()


@pytest.mark.parametrize(("host", "is_called"), [("127.0.0.1", True), ("127.0.0.9", False)])
def test_a_peer_that_released_is_called_where_it_is_configured_and_a_stranger_with_its_title_is_not(
    database: Database, tmp_path: Path, port: int, host: str, is_called: bool
) -> None:
    reports: list[Dataset] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0x0000, None

    ae = AE(ae_title="MODALITY")
    ae.add_supported_context(commitment.SOP_CLASS, scu_role=True, scp_role=True)
    peer_port = free_port()
    server = ae.start_server(("", peer_port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    settings = Settings(
        worker=WorkerSection(data_dir=tmp_path),
        receive=ReceiveSection(host="127.0.0.1", port=port, minimum_free_bytes=0),
        peer=(PeerSection(ae_title="MODALITY", host=host, port=peer_port),),
    )
    receiver = Receiver(settings, database, lambda: datetime.now(UTC))
    receiver.start()
    try:
        statuses, assoc = _request(port, "MODALITY", references=2)
        assoc.release()
        assert statuses == [standard.SUCCESS]
        if is_called:
            wait_until(lambda: reports, "the report", 20, every=0.05)
            assert len(commitment.read_report(reports[0]).failed) == 2
        else:
            time.sleep(1)
            assert reports == []
    finally:
        receiver.stop(1)
        server.shutdown()


def test_a_request_without_its_identifiers_is_a_failure(port: int, receiver: Receiver) -> None:
    ae = AE(ae_title="STRANGER")
    ae.add_requested_context(commitment.SOP_CLASS)
    assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
    empty = Dataset()
    empty.PatientID = "x"
    answer, _ = assoc.send_n_action(empty, 1, commitment.SOP_CLASS, commitment.SOP_INSTANCE)
    assoc.release()
    assert answer.Status == 0x0110


@pytest.mark.parametrize(
    ("number", "sop_class", "sop_instance", "status"),
    [
        (99, commitment.SOP_CLASS, commitment.SOP_INSTANCE, None),
        (1, commitment.SOP_CLASS, "1.2.3", standard.NO_SUCH_SOP_INSTANCE),
        (1, SOP_CLASSES[0], commitment.SOP_INSTANCE, standard.UNRECOGNIZED_OPERATION),
    ],
)
def test_only_the_actions_and_reports_of_the_well_known_instance_are_taken(
    port: int, receiver: Receiver, number: int, sop_class: str, sop_instance: str, status: int | None
) -> None:
    ae = AE(ae_title="STRANGER")
    ae.add_requested_context(commitment.SOP_CLASS)
    assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
    information = commitment.build_request("1.2.3", [(SOP_CLASSES[0], "1.2.3.4")])
    model = commitment.SOP_CLASS  # of the context
    action, _ = assoc.send_n_action(information, number, sop_class, sop_instance, meta_uid=model)
    report, _ = assoc.send_n_event_report(information, number, sop_class, sop_instance, meta_uid=model)
    assoc.release()
    assert action.Status == (status or standard.NO_SUCH_ACTION)
    assert report.Status == (status or standard.NO_SUCH_EVENT_TYPE)


def test_a_report_that_never_comes_is_asked_for_again(database: Database, tmp_path: Path, pacs: Any) -> None:
    """The stand-in PACS has no storage commitment at all: nothing is lost, and the asking goes on."""
    clock = Clock()
    destination = _destination(pacs.port, ae_title="PACS", commitment_timeout_seconds=60)
    sender = Sender(destination, "AI_WORKER", database, tmp_path, clock)
    sender.send_due()
    assert sender.request_commitment() == 2
    assert sender.request_commitment() == 0
    clock.ahead += timedelta(seconds=61)
    assert sender.request_commitment() == 2
    assert {delivery.state for delivery in _deliveries(database)} == {DeliveryState.DELIVERED}
