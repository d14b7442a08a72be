"""Notices by webhook and mail, to real servers; what a fault leaves."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select

from tests.testbed.dcmtk import free_port
from tests.testbed.instances import later
from tests.testbed.notified import mail_server, webhook
from tests.testbed.rows import add_series
from tests.testbed.waiting import wait_until
from worker.audit.messages import AuditEvent
from worker.config.notify import NotifySection
from worker.db.engine import Database
from worker.db.tables import JobRow, NoticeRow, NoticeState, SeriesStatus
from worker.send.notifier import Notifier


class Clock:
    def __init__(self) -> None:
        self.seconds = 60.0

    def __call__(self) -> Any:
        return later(self.seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database: Database) -> Database:
    """A parked job and an urgent glioma."""
    add_series(database, "canary", SeriesStatus.CLASSIFIED)
    add_series(database, "d", SeriesStatus.FAILED, 1)
    with database.write() as session:
        session.scalars(select(JobRow).order_by(JobRow.id)).first().urgent = True  # type: ignore[union-attr]
    return database


def _rows(database: Database) -> list[NoticeRow]:
    with database.read() as session:
        return list(session.scalars(select(NoticeRow)))


def test_a_webhook_gets_one_message_without_a_patient(database: Database, clock: Clock) -> None:
    with webhook() as hook:
        section = NotifySection(name="chat", url=f"http://127.0.0.1:{hook.port}/hook")
        notifier = Notifier(section, database, clock)
        assert (notifier.find(), notifier.send_due()) == (2, 2)
        assert (notifier.find(), notifier.send_due()) == (0, 0)
        [(body, headers)] = hook.posted
    assert body["channel"] == "chat"
    assert "job 2 is parked: process-died" in body["text"]
    assert "Research use only" in body["text"]
    assert {notice["event"] for notice in body["notices"]} == {"parked", "urgent-lesion"}
    assert headers["Content-Type"] == "application/json"
    assert "canary" not in str(body)
    assert {row.state for row in _rows(database)} == {NoticeState.SENT}


def test_what_is_not_accepted_waits_and_arrives_later_and_redirects_are_not_followed(
    database: Database, clock: Clock
) -> None:
    with webhook() as hook:
        notifier = Notifier(NotifySection(name="chat", url=f"http://127.0.0.1:{hook.port}/hook"), database, clock)
        notifier.find()
        for status in (500, 302):
            hook.status = status
            assert notifier.send_due() == 2
            assert notifier.send_due() == 0  # the backoff
            assert {(row.state, row.reason) for row in _rows(database)} == {("pending", "not-accepted")}
            clock.seconds += 700
        assert len(hook.posted) == 2
        hook.status = 200
        assert notifier.send_due() == 2
    assert {(row.state, row.attempts, row.detail) for row in _rows(database)} == {("sent", 3, None)}
    gone = Notifier(NotifySection(name="gone", url=f"http://127.0.0.1:{free_port()}/"), database, clock)
    gone.find()
    gone.send_due()
    [(reason, detail)] = {(row.reason, row.detail) for row in _rows(database) if row.channel == "gone"}
    assert reason == "peer-unavailable"
    assert detail is not None
    assert detail.startswith("gone does not answer at its url: connection refused")


def test_mail_names_the_patient_only_where_it_may(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited: list[AuditEvent] = []
    with mail_server() as (port, mails):
        values: dict[str, Any] = {"smtp_host": "127.0.0.1", "smtp_port": port, "sender": "worker@example.org"}
        values |= {"recipients": ("a@example.org", "b@example.org"), "smtp_tls": "none"}
        plain = Notifier(NotifySection(name="plain", **values), database, clock, audited.append)
        named = Notifier(
            NotifySection(name="named", events=("urgent-lesion",), **values).model_copy(update={"patient_data": True}),
            database, clock, audited.append,
        )  # fmt: skip
        assert (plain.find(), plain.send_due()) == (2, 2)
        assert audited == []
        assert (named.find(), named.send_due()) == (1, 1)
    first, second = mails
    assert first["To"] == "a@example.org, b@example.org"
    assert first["Subject"] == "brain-mri-worker: 2 notices"
    assert "canary" not in first.as_string()
    assert "ID-canary" in second.get_content()
    assert [event.id.meaning for event in audited] == ["Export"]


def test_the_thread_finds_and_sends_until_it_is_stopped(database: Database, clock: Clock) -> None:
    stop = threading.Event()
    with webhook() as hook:
        section = NotifySection(name="chat", url=f"http://127.0.0.1:{hook.port}/hook", undelivered_seconds=0)
        notifier = Notifier(section, database, clock)
        thread = threading.Thread(target=notifier.run, args=(stop, 0.05))
        thread.start()
        wait_until(lambda: len(hook.posted) >= 1, "the message")
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert any("to pacs waiting" in row.text for row in _rows(database))
