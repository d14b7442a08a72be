"""Senders that break off in the fourth of eight slices, on real sockets: the series waits and says so."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from tests.testbed.instances import MODEL, NOON, encoded, mr_instance
from tests.testbed.receiver import receiving
from tests.testbed.waiting import wait_until
from worker.config.sections import PeerSection, ReceiveSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.models import model_row
from worker.db.settling import record_count
from worker.db.tables import AssociationRow, JobRow, SeriesRow, SeriesState
from worker.receive.settle import settle_series

QUIET, INCOMPLETE = 1, 5
SETTINGS = Settings(
    receive=ReceiveSection(quiet_seconds=QUIET, incomplete_seconds=INCOMPLETE),
    peer=(PeerSection(ae_title="COUNTED", host="127.0.0.1", port=1, query=True),),
)
PRIVATE_SOP_CLASS = "1.2.840.113619.4.2"


def _associate(port: int, calling: str = "PACS") -> Association:
    ae = AE(ae_title=calling)
    for sop_class in (MRImageStorage, PRIVATE_SOP_CLASS):
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
    assert assoc.is_established
    return assoc


def _send(assoc: Association, numbers: range) -> None:
    for number in numbers:
        assert assoc.send_c_store(dcmread(BytesIO(encoded(mr_instance(number))))).Status == 0


def _begin_to_send(assoc: Association, number: int) -> None:
    """The command and a part of the dataset."""
    ds = mr_instance(number)
    request = C_STORE()
    request.MessageID, request.Priority = 99, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    request.DataSet = BytesIO(encode(ds, False, True))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    parts = list(message.encode_msg(assoc.accepted_contexts[0].context_id, 512))
    assert len(parts) > 3
    for part in parts[:3]:
        assoc.dul.send_pdu(part)


def _reset(assoc: Association) -> None:
    connection = assoc.dul.socket.socket
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _be_silent(assoc: Association) -> None:
    assoc.dul._idle_timer.stop()


def _ends(database: Database) -> list[str | None]:
    with database.read() as session:
        return list(session.scalars(select(AssociationRow.ended).order_by(AssociationRow.id)))


def _closed_at(database: Database, count: int = 1) -> datetime:
    """When the last of so many associations was over."""

    def closed() -> list[datetime]:
        with database.read() as session:
            query = select(AssociationRow.closed_at).where(AssociationRow.closed_at.is_not(None))
            return [at for at in session.scalars(query) if at is not None]

    wait_until(lambda: len(closed()) == count, "the associations' ends", 20, every=0.05)
    return max(closed())


def _serve_a_model(database: Database) -> None:
    with database.write() as session:
        model_row(session, MODEL, NOON)


def _settles(database: Database, at: datetime) -> str | None:
    """Settle; what is missing by the last job, "open" while the series waits."""
    settle_series(database, SETTINGS, at)
    with database.read() as session:
        if session.scalars(select(SeriesRow)).one().state == SeriesState.OPEN:
            return "open"
        return session.scalars(select(JobRow).order_by(JobRow.id.desc())).first().missing  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("break_off", "ended"),
    [
        (Association.abort, "aborted"),
        (_reset, "lost"),
        (lambda assoc: assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR), "lost"),
        (_be_silent, "aborted"),  # by us, after idle_seconds
    ],
    ids=["abort", "reset", "close", "silence"],
)
def test_a_series_cut_short_waits_and_says_so(
    tmp_path: Path, break_off: Callable[[Association], None], ended: str
) -> None:
    with receiving(tmp_path, idle_seconds=1) as (port, database):
        _serve_a_model(database)
        assoc = _associate(port)
        _send(assoc, range(1, 4))
        _begin_to_send(assoc, 4)
        wait_until(lambda: not assoc.dul.to_provider_queue.queue, "the fourth slice's beginning", 5)
        break_off(assoc)
        closed_at = _closed_at(database)
        assert _ends(database) == [ended]
        assert _settles(database, closed_at + timedelta(seconds=QUIET + INCOMPLETE - 0.1)) == "open"
        missing = _settles(database, closed_at + timedelta(seconds=QUIET + INCOMPLETE))
        assert missing == f"its transfer broke off after 3 images (association {ended})"
        if assoc.is_alive():
            assoc.abort()


def test_a_sender_whose_private_class_was_refused_and_that_aborts_is_not_done(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, database):
        assoc = _associate(port)
        assert [context.abstract_syntax for context in assoc.rejected_contexts] == [PRIVATE_SOP_CLASS]
        _send(assoc, range(1, 4))
        with pytest.raises(ValueError, match="context"):
            assoc.send_c_store(dcmread(BytesIO(encoded(mr_instance(4, SOPClassUID=PRIVATE_SOP_CLASS)))))
        assoc.abort()
        _closed_at(database)
        assert _ends(database) == ["aborted"]


def test_our_own_abort_of_a_message_on_a_context_that_we_refused_is_kept(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, database):
        assoc = _associate(port)
        _send(assoc, range(1, 4))
        request = C_STORE()
        request.MessageID, request.Priority = 99, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = PRIVATE_SOP_CLASS, "1.2.3"
        request.DataSet = BytesIO(bytes(64))
        assoc.dimse.send_msg(request, assoc.rejected_contexts[0].context_id)
        _closed_at(database)
        assert _ends(database) == ["aborted"]


def test_a_series_of_two_associations_is_cut_short_where_either_is(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, database):
        _serve_a_model(database)
        good, bad = _associate(port), _associate(port)
        _send(good, range(1, 5))
        _send(bad, range(5, 8))
        bad.abort()
        good.release()
        closed_at = _closed_at(database, 2)
        assert sorted(map(str, _ends(database))) == ["aborted", "released"]
        assert _settles(database, closed_at + timedelta(seconds=QUIET + INCOMPLETE - 1)) == "open"
        missing = _settles(database, closed_at + timedelta(seconds=QUIET + INCOMPLETE))
        assert missing == "its transfer broke off after 3 images (association aborted)"


def test_the_same_images_over_an_association_that_is_released_make_it_good(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, database):
        _serve_a_model(database)
        broken = _associate(port)
        _send(broken, range(1, 4))
        broken.abort()
        _closed_at(database)
        again = _associate(port)
        _send(again, range(1, 9))
        again.release()
        closed_at = _closed_at(database, 2)
        assert _ends(database) == ["aborted", "released"]
        assert _settles(database, closed_at + timedelta(seconds=QUIET)) is None


def test_the_senders_count_says_that_nothing_is_missing(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, database):
        _serve_a_model(database)
        assoc = _associate(port, "COUNTED")
        _send(assoc, range(1, 9))
        assoc.abort()
        closed_at = _closed_at(database)
        assert _settles(database, closed_at + timedelta(seconds=QUIET)) == "open"
        with database.write() as session:
            record_count(session, 1, closed_at + timedelta(seconds=QUIET), 8)
        assert _settles(database, closed_at + timedelta(seconds=QUIET)) is None


def test_a_permanent_association_that_echoes_is_answered_after_its_idle_time(tmp_path: Path) -> None:
    """Settling with another clock: the association lives on, and its series needs no more than idle_seconds."""
    with receiving(tmp_path, idle_seconds=60) as (port, database):
        _serve_a_model(database)
        ae = AE(ae_title="PACS")
        for sop_class in (MRImageStorage, Verification):
            ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
        _send(assoc, range(1, 9))
        assert assoc.send_c_echo().Status == 0
        with database.read() as session:
            last = session.scalars(select(SeriesRow.last_received_at)).one()
        assert _settles(database, last + timedelta(seconds=59)) == "open"
        assert _settles(database, last + timedelta(seconds=60)) is None  # nothing is missing
        assert assoc.is_established
        assoc.release()
