from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from tests.testbed.instances import later
from tests.testbed.rows import add_series
from worker.db.engine import Database
from worker.db.operating.notices import (
    News,
    add_notices,
    claim_notices,
    end_notices,
    find_news,
    notices_wait,
    unsent_notices,
    untold,
)
from worker.db.tables import DeliveryRow, DeliveryState, JobRow, NoticeRow, NoticeState, SeriesStatus

EVENTS = ("parked", "undelivered", "urgent-lesion")
HOUR, LEASE = timedelta(hours=1), timedelta(seconds=30)


@pytest.fixture
def eventful(database: Database) -> Database:
    """A parked job and an urgent glioma; deliveries that failed, wait and arrived."""
    for number, name in enumerate("abc"):
        add_series(database, name, SeriesStatus.CLASSIFIED, number, probability=0.9)
    add_series(database, "d", SeriesStatus.FAILED, 4)
    with database.write() as session:
        jobs = session.scalars(select(JobRow).order_by(JobRow.id)).all()
        jobs[0].urgent = True
        failed, waits, arrived = session.scalars(select(DeliveryRow).order_by(DeliveryRow.id))
        failed.state, failed.reason = DeliveryState.FAILED, "rejected"
        waits.attempts, arrived.state = 3, DeliveryState.DELIVERED
    return database


def _found(database: Database, seconds: float = 60) -> list[News]:
    with database.read() as session:
        return find_news(session, EVENTS, HOUR, later(seconds))


def test_what_an_operator_should_know_is_found(eventful: Database) -> None:
    found = {news.event: news.text for news in _found(eventful)}
    assert set(found) == {"parked", "undelivered", "urgent-lesion"}
    assert found["parked"] == "job 4 is parked: process-died"
    assert found["undelivered"] == "delivery 1 to pacs failed: rejected"
    assert found["urgent-lesion"].startswith("urgent series 1: the model answers 'glioma'")
    late = _found(eventful, 4000)
    assert [news.text for news in late if "wait" in news.text] == [
        "1 delivery to pacs waiting, the oldest since 2026-03-01 12:00 UTC"
    ]
    assert [news.event for news in _found(eventful, 90_000)].count("urgent-lesion") == 0  # no news after a day
    with eventful.read() as session:
        assert {news.event for news in find_news(session, ["parked"], HOUR, later(60))} == {"parked"}


def test_each_is_told_once_and_again_when_it_happens_again(eventful: Database) -> None:
    news = _found(eventful)
    for _ in range(2):  # as two hosts would
        with eventful.write() as session:
            add_notices(session, "on-call", news, later(60))
    with eventful.read() as session:
        assert len(session.scalars(select(NoticeRow)).all()) == len(news) == 3
        assert untold(session, "on-call", _found(eventful, 61)) == []
        assert untold(session, "another", news) == news
    with eventful.write() as session:
        session.execute(update(JobRow).where(JobRow.id == 4).values(finished_at=later(100)))
    with eventful.read() as session:
        assert [item.event for item in untold(session, "on-call", _found(eventful, 120))] == ["parked"]


def test_a_notice_is_leased_and_one_that_was_abandoned_is_due_again(database: Database) -> None:
    with database.write() as session:
        add_notices(session, "on-call", [News("parked", f"job {n}", "text") for n in (1, 2, 3)], later(0))
    with database.write() as session:
        claimed = [row.id for row in claim_notices(session, "on-call", "me", later(0), LEASE, 2)]
        assert len(claimed) == 2
        assert claim_notices(session, "another", "me", later(0), LEASE, 2) == []
    with database.write() as session:
        assert len(claim_notices(session, "on-call", "you", later(0), LEASE, 9)) == 1
        assert not notices_wait(session, "on-call", later(29))
        assert notices_wait(session, "on-call", later(31))
        waiting = {"state": NoticeState.PENDING, "not_before": later(40), "reason": "no-answer", "detail": "silent"}
        end_notices(session, claimed, "you", waiting)  # not yours
        assert unsent_notices(session) == {}
        end_notices(session, claimed, "me", waiting)
        assert unsent_notices(session) == {"on-call": (2, "silent")}
