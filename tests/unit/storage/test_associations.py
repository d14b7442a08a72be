"""Rows of associations: opened, closed, and closed for a receiver that died."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from tests.testbed.instances import NOON, later, new_instance
from tests.testbed.waiting import wait_until
from worker.audit.events import unrecorded
from worker.audit.messages import AuditEvent
from worker.config.sections import WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.processes import beat
from worker.db.tables import AssociationEnd, AssociationRow
from worker.process import ProcessRole, process_name
from worker.storage import associations
from worker.storage.associations import Associations, close_dead_associations


def rows(database: Database) -> list[AssociationRow]:
    with database.read() as session:
        return list(session.scalars(select(AssociationRow).order_by(AssociationRow.id)))


def test_an_association_is_opened_closed_and_audited(database: Database) -> None:
    trail: list[AuditEvent] = []
    times = iter((NOON, later(60)))
    ours = Associations(database, "AI_WORKER", lambda: next(times), trail.append)
    row = ours.open("PACS", "10.0.0.7")
    with database.write() as session:
        for number in (1, 2):
            add_instance(session, new_instance(number, association_id=row), NOON)
    ours.close(row, AssociationEnd.RELEASED)
    [association] = rows(database)
    assert (association.calling_ae_title, association.peer) == ("PACS", "10.0.0.7")
    assert (association.receiver, association.opened_at, association.closed_at) == (process_name(), NOON, later(60))
    [event] = trail
    assert event.id.meaning == "DICOM Instances Transferred"
    assert "PACS" in str(event)


def test_the_audit_trail_names_the_sender_that_is_given(database: Database) -> None:
    trail: list[AuditEvent] = []
    ours = Associations(database, "AI_WORKER", lambda: NOON, trail.append)
    row = ours.open("STOW-RS", "10.0.0.7")
    with database.write() as session:
        add_instance(session, new_instance(1, association_id=row), NOON)
    ours.close(row, AssociationEnd.RELEASED, sender="token of the archive")
    assert "token of the archive" in str(trail[0])


def test_titles_and_addresses_longer_than_their_columns_are_cut(database: Database) -> None:
    Associations(database, "AI_WORKER", lambda: NOON, unrecorded).open("T" * 40, "fe80::1%" + "i" * 80)
    [association] = rows(database)
    assert (len(association.calling_ae_title), len(association.peer)) == (16, 64)


def test_an_end_that_cannot_be_recorded_is_retried(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []
    real = associations.close_association

    def fail_once(session: object, row: int, now: datetime, end: AssociationEnd) -> None:
        attempts.append(row)
        if len(attempts) == 1:
            raise OSError("disk full")
        real(session, row, now, end)  # type: ignore[arg-type]

    monkeypatch.setattr(associations, "close_association", fail_once)
    monkeypatch.setattr(associations, "_RETRY_SECONDS", 0.01)
    ours = Associations(database, "AI_WORKER", lambda: NOON, unrecorded)
    row = ours.open("PACS", "10.0.0.7")
    ours.close(row, AssociationEnd.RELEASED)
    wait_until(lambda: rows(database)[0].closed_at is not None, "the association's end", 10, every=0.02)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()  # it still holds a connection of the database, which is closed next
    assert attempts == [row, row]


@pytest.mark.parametrize(
    ("receiver", "opened_ago", "seen_ago", "closed"),
    [
        (f"{socket.gethostname()}:999999999", 0, None, True),
        (process_name(), 60, 0, False),  # the receiver that calls this
        ("elsewhere:1", 60, 29, False),
        ("elsewhere:1", 60, 30, True),
        ("elsewhere:1", 60, None, True),
        ("elsewhere:1", 29, None, False),  # it may be about to tell of itself
    ],
    ids=["gone", "itself", "elsewhere-seen", "elsewhere-silent", "elsewhere-never-seen", "elsewhere-new"],
)
def test_associations_of_a_receiver_that_died_are_closed(
    database: Database, receiver: str, opened_ago: float, seen_ago: float | None, closed: bool
) -> None:
    now = datetime.now(UTC)
    with database.write() as session:
        opened = now - timedelta(seconds=opened_ago)
        session.add(AssociationRow(calling_ae_title="PACS", peer="127.0.0.1", receiver=receiver, opened_at=opened))
        if seen_ago is not None:
            beat(session, receiver, ProcessRole.RECEIVE, opened, now - timedelta(seconds=seen_ago))
    settings = Settings(worker=WorkerSection(lease_seconds=30))
    assert close_dead_associations(settings, database, now, unrecorded, process_name()) == closed


def test_an_association_of_an_earlier_process_of_our_name_is_closed_at_start(database: Database) -> None:
    now = datetime.now(UTC)
    with database.write() as session:
        row = AssociationRow(calling_ae_title="PACS", peer="127.0.0.1", receiver=process_name(), opened_at=now)
        session.add(row)
    assert close_dead_associations(Settings(), database, now, unrecorded) == 1
    assert rows(database)[0].ended == AssociationEnd.LOST
