"""Activity over time, backlogs and sending peers, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.testbed.instances import MODEL, later
from tests.testbed.rows import LEASE, add_series
from tests.testbed.studies import classify, report_study
from worker.db.deliveries import claim_deliveries, end_delivery
from worker.db.engine import Database
from worker.db.instances import open_association
from worker.db.tables import DeliveryState, SeriesStatus
from worker.db.views import activity
from worker.db.views.activity import ModelUsage, SendingPeer
from worker.db.views.totals import RunningTotals

HOUR = 3600


@pytest.fixture
def filled(database: Database) -> Database:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    add_series(database, "b", SeriesStatus.CLASSIFIED, HOUR)
    add_series(database, "c", SeriesStatus.REFUSED)
    add_series(database, "d", SeriesStatus.FAILED)
    return database


def test_answers_are_in_the_span_of_their_time(filled: Database) -> None:
    with filled.read() as session:
        recent = activity.find_activity(session, later(HOUR + 1), timedelta(hours=1), 2)
        earlier = activity.find_activity(session, later(-1), timedelta(hours=1), 2)
    assert [span.start for span in recent.spans] == [later(0), later(HOUR)]
    assert [dict(span.answers) for span in recent.spans] == [{"glioma": 1}, {"glioma": 1}]
    assert [span.median_seconds for span in recent.spans] == [0, 0]
    assert recent.whole
    assert [dict(span.answers) for span in earlier.spans] == [{}, {}]
    assert [span.slowest_seconds for span in earlier.spans] == [None, None]


def test_the_slowest_is_the_95th_percentile() -> None:
    span = activity.Span(later(0), seconds=[float(number) for number in range(101)])
    assert (span.median_seconds, span.slowest_seconds) == (50, 95)


def test_the_backlog_of_a_destination(filled: Database) -> None:
    with filled.read() as session:
        assert activity.find_backlog(session, "pacs") == activity.Backlog(2, 0, later(0), None, None)
        assert activity.find_backlog(session, "other") == activity.Backlog(0, 0, None, None, None)
    with filled.write() as session:
        [(first, _), (second, _)] = claim_deliveries(session, "pacs", "me", later(HOUR), LEASE)
        delivered = {"state": DeliveryState.DELIVERED, "delivered_at": later(HOUR + 1)}
        end_delivery(session, first.id, "me", delivered)
        end_delivery(session, second.id, "me", {"state": DeliveryState.FAILED, "reason": "rejected"})
    with filled.read() as session:
        assert activity.find_backlog(session, "pacs") == activity.Backlog(0, 1, None, later(HOUR + 1), None)
        assert activity.parked_counts(session) == (1, 1)


def test_peers_are_listed_by_their_newest_association(database: Database) -> None:
    with database.write() as session:
        for number, title in enumerate(["PACS", "SCANNER", "PACS"]):
            open_association(session, title, "10.0.0.1", "host:1", later(number))
    with database.read() as session:
        assert activity.sending_peers(session) == [
            SendingPeer("PACS", "10.0.0.1", 2, later(2)),
            SendingPeer("SCANNER", "10.0.0.1", 1, later(1)),
        ]


def test_models_that_have_been_in_use(filled: Database) -> None:
    with filled.read() as session:
        assert activity.used_models(session) == [ModelUsage(MODEL.name, MODEL.version, MODEL.sha256, later(0))]


def test_the_oldest_of_a_backlog_may_be_of_a_study(database: Database) -> None:
    classify(database, "a")
    report_study(database, seconds=60)
    with database.read() as session:
        assert activity.find_backlog(session, "pacs") == activity.Backlog(1, 0, later(60), None, None)
        assert RunningTotals().read(session).deliveries["pacs"].oldest == later(60)
