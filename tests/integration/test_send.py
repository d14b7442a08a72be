"""Deliveries to real Storage SCPs: pynetdicom that misbehaves, and DCMTK."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from sqlalchemy import select

from tests.testbed import dcmtk
from tests.testbed.answered import answer
from tests.testbed.instances import Clock, mr_instance
from tests.testbed.pacs import Behaviour, Pacs
from tests.testbed.waiting import wait_until
from worker.db.deliveries import retry_failed_deliveries
from worker.db.engine import Database
from worker.db.tables import DeliveryRow, DeliveryState
from worker.errors import Retry
from worker.send.destinations.c_store import CStoreDestination
from worker.send.sender import REJECTIONS_BEFORE_FAILED, Sender


def _sender(database: Database, tmp_path: Path, port: int, clock: Clock, **changes: float) -> Sender:
    destination = CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, **changes)
    return Sender(destination, "AI_WORKER", database, tmp_path, clock)


def _deliveries(database: Database) -> list[DeliveryRow]:
    with database.read() as session:
        return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))


def _states(database: Database) -> set[str]:
    return {delivery.state for delivery in _deliveries(database)}


def test_report_and_picture_arrive_as_they_are_on_disk(
    database: Database, tmp_path: Path, pacs: Pacs, clock: Clock
) -> None:
    assert _sender(database, tmp_path, pacs.port, clock).send_due() == 2
    assert _states(database) == {DeliveryState.DELIVERED}
    stored = [dcmread(path) for path in (tmp_path / "objects").rglob("*.dcm")]
    for ds in stored:
        path = tmp_path / "arrived.dcm"
        path.write_bytes(pacs.stored[ds.SOPInstanceUID])
        assert dcmread(path) == ds
    assert {ds.SOPClassUID for ds in stored} == {Comprehensive3DSRStorage, SecondaryCaptureImageStorage}


def test_nothing_is_due_twice(database: Database, tmp_path: Path, pacs: Pacs, clock: Clock) -> None:
    sender = _sender(database, tmp_path, pacs.port, clock)
    assert [sender.send_due(), sender.send_due()] == [2, 0]
    assert set(pacs.receipts.values()) == {1}


def test_a_peer_that_is_down_is_retried_until_it_is_up(
    database: Database, tmp_path: Path, pacs: Pacs, clock: Clock
) -> None:
    pacs.stop()
    sender = _sender(database, tmp_path, pacs.port, clock)
    for _ in range(20):  # more often than a rejection would be
        assert sender.send_due() == 2
        assert {delivery.reason for delivery in _deliveries(database)} == {"peer-unavailable"}
        clock.ahead += timedelta(minutes=11)
    pacs.start()
    sender.send_due()
    assert _states(database) == {DeliveryState.DELIVERED}
    assert {delivery.reason for delivery in _deliveries(database)} == {None}


@pytest.mark.parametrize(
    ("status", "reason"), [(0xA700, "peer-out-of-resources"), (0xC000, "rejected"), (0xA900, "rejected")]
)
def test_a_failure_status_is_stored_and_retried(
    database: Database, tmp_path: Path, pacs: Pacs, clock: Clock, status: int, reason: str
) -> None:
    pacs.behaviour, pacs.status = Behaviour.REFUSE, status
    sender = _sender(database, tmp_path, pacs.port, clock)
    sender.send_due()
    assert {(delivery.state, delivery.reason) for delivery in _deliveries(database)} == {
        (DeliveryState.PENDING, reason)
    }
    pacs.behaviour = Behaviour.ACCEPT
    clock.ahead += timedelta(minutes=11)
    sender.send_due()
    assert _states(database) == {DeliveryState.DELIVERED}


def test_a_rejection_that_lasts_is_failed_and_visible_then_retried_by_hand(
    database: Database, tmp_path: Path, pacs: Pacs, clock: Clock
) -> None:
    pacs.behaviour, pacs.status = Behaviour.REFUSE, 0xC123
    sender = _sender(database, tmp_path, pacs.port, clock)
    for _ in range(REJECTIONS_BEFORE_FAILED):
        sender.send_due()
        clock.ahead += timedelta(minutes=11)
    assert {(delivery.state, delivery.status) for delivery in _deliveries(database)} == {(DeliveryState.FAILED, 0xC123)}
    assert sender.send_due() == 0
    pacs.behaviour = Behaviour.ACCEPT
    with database.write() as session:
        assert len(retry_failed_deliveries(session, clock())) == 2
    sender.send_due()
    assert _states(database) == {DeliveryState.DELIVERED}


def test_an_abort_in_the_middle_is_retried(database: Database, tmp_path: Path, pacs: Pacs, clock: Clock) -> None:
    pacs.behaviour = Behaviour.ABORT
    sender = _sender(database, tmp_path, pacs.port, clock)
    sender.send_due()
    assert _states(database) == {DeliveryState.PENDING}
    assert {delivery.reason for delivery in _deliveries(database)} <= {"no-answer", "association-lost"}
    pacs.behaviour = Behaviour.ACCEPT
    clock.ahead += timedelta(minutes=11)
    sender.send_due()
    assert _states(database) == {DeliveryState.DELIVERED}


def test_a_peer_that_does_not_answer_in_time_is_retried(
    database: Database, tmp_path: Path, pacs: Pacs, clock: Clock
) -> None:
    pacs.behaviour, pacs.delay_seconds = Behaviour.SLOW, 3.0
    _sender(database, tmp_path, pacs.port, clock, timeout_seconds=0.5).send_due()
    assert _states(database) == {DeliveryState.PENDING}


def test_a_peer_without_comprehensive_3d_sr_gets_a_comprehensive_sr(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    pacs = Pacs()
    pacs.accept_sop_classes = {ComprehensiveSRStorage, SecondaryCaptureImageStorage}
    with pacs:
        _sender(database, tmp_path, pacs.port, clock).send_due()
        path = tmp_path / "arrived.dcm"
        path.write_bytes(next(iter(pacs.files((ComprehensiveSRStorage,)).values())))
    assert _states(database) == {DeliveryState.DELIVERED}
    arrived: Dataset = dcmread(path)
    assert arrived.file_meta.MediaStorageSOPInstanceUID == arrived.SOPInstanceUID


def test_a_peer_that_accepts_no_report_still_gets_the_picture(database: Database, tmp_path: Path, clock: Clock) -> None:
    pacs = Pacs()
    pacs.accept_sop_classes = {SecondaryCaptureImageStorage}
    with pacs:
        _sender(database, tmp_path, pacs.port, clock).send_due()
    report, picture = _deliveries(database)
    assert (report.state, report.reason) == (DeliveryState.PENDING, "sop-class-refused")
    assert report.detail == "the peer does not accept Comprehensive SR Storage"
    assert picture.state == DeliveryState.DELIVERED


def test_a_transfer_syntax_that_is_refused_is_reported_by_name(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    ae = AE(ae_title="PACS")
    ae.add_supported_context(SecondaryCaptureImageStorage, JPEGBaseline8Bit)
    ae.add_supported_context(Comprehensive3DSRStorage, ExplicitVRLittleEndian)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0x0000)])
    _sender(database, tmp_path, server.server_address[1], clock).send_due()
    server.shutdown()
    report, picture = _deliveries(database)
    assert report.state == DeliveryState.DELIVERED
    assert (picture.state, picture.reason) == (DeliveryState.PENDING, "transfer-syntax-refused")
    assert picture.detail == (
        "the peer does not accept Secondary Capture Image Storage in Explicit VR Little Endian "
        "or Implicit VR Little Endian"
    )


def test_an_object_that_the_peer_has_already_is_delivered(
    database: Database, tmp_path: Path, pacs: Pacs, clock: Clock
) -> None:
    pacs.behaviour, pacs.status = Behaviour.REFUSE, 0x0111
    _sender(database, tmp_path, pacs.port, clock).send_due()
    assert _states(database) == {DeliveryState.DELIVERED}


@pytest.mark.skipif(not dcmtk.installed("storescp"), reason="DCMTK is not installed")
@pytest.mark.parametrize("option", ["+xe", "+xi"])
def test_dcmtk_accepts_both_uncompressed_transfer_syntaxes(
    database: Database, tmp_path: Path, clock: Clock, option: str
) -> None:
    with dcmtk.storescp(tmp_path / "pacs", option) as port:
        _sender(database, tmp_path, port, clock).send_due()
    assert _states(database) == {DeliveryState.DELIVERED}
    assert len(list((tmp_path / "pacs").iterdir())) == 2


@pytest.mark.skipif(not dcmtk.installed("storescp"), reason="DCMTK is not installed")
def test_key_objects_go_to_the_destination_that_wants_them(database: Database, tmp_path: Path, clock: Clock) -> None:
    data = tmp_path / "second"
    *_, selection = answer(database, data, "b", 3, ("pacs", "reading"), ("reading",))
    with dcmtk.storescp(tmp_path / "reading") as port:
        reading = CStoreDestination(name="reading", ae_title="PACS", host="127.0.0.1", port=port)
        assert Sender(reading, "AI_WORKER", database, data, clock).send_due() == 3
    with database.read() as session:
        counted = Counter(session.scalars(select(DeliveryRow.destination)))
    assert counted == {"pacs": 4, "reading": 3}  # two of them are the fixture's
    arrived = {ds.SOPInstanceUID: ds for ds in map(dcmread, (tmp_path / "reading").iterdir())}
    chosen = arrived[selection.sop_instance_uid]
    assert chosen.SOPClassUID == KeyObjectSelectionDocumentStorage
    named = [item for item in chosen.ContentSequence if item.ValueType == "IMAGE"]
    assert {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in named} == {
        mr_instance(number, "b").SOPInstanceUID for number in (1, 2, 3)
    }


def test_a_slow_destination_delays_no_other(database: Database, tmp_path: Path, pacs: Pacs, clock: Clock) -> None:
    with Pacs(ae_title="SLOW") as slow:
        slow.behaviour, slow.delay_seconds = Behaviour.SLOW, 1.5
        with database.write() as session:
            for delivery in session.scalars(select(DeliveryRow)).all():
                session.add(
                    DeliveryRow(object_id=delivery.object_id, destination="slow", not_before=delivery.not_before)
                )
        target = CStoreDestination(name="slow", ae_title="SLOW", host="127.0.0.1", port=slow.port)
        stop = threading.Event()
        threads = [
            threading.Thread(target=Sender(target, "AI_WORKER", database, tmp_path, clock).run, args=(stop,)),
            threading.Thread(target=_sender(database, tmp_path, pacs.port, clock).run, args=(stop,)),
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(pacs.stored) >= 2, "two objects at the quick destination", 20, every=0.02)
        on_time = len(slow.stored) < 2
        stop.set()
        for thread in threads:
            thread.join()
    assert len(pacs.stored) == 2
    assert on_time


def test_echo_reports_why_it_failed(pacs: Pacs) -> None:
    destination = CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=pacs.port)
    destination.probe("AI_WORKER")
    pacs.stop()
    with pytest.raises(Retry, match="does not answer"):
        destination.probe("AI_WORKER")
