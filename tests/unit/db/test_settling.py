"""Which series are complete, by silence and by their sender's count, on both databases.

What becomes of them is in tests/unit/receive/test_settle.py.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.testbed.instances import later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance, close_association, open_association
from worker.db.settling import (
    CountPolicy,
    broken_transfers,
    expected_now,
    record_count,
    series_to_count,
    series_to_settle,
)
from worker.db.tables import SeriesRow

QUIET, IDLE, LULL, RECOUNT = (timedelta(seconds=seconds) for seconds in (10, 60, 1, 5))
SILENCE = CountPolicy()
ON_COUNT = CountPolicy(("PACS",), settle_on_count=True, extra_quiet=timedelta(seconds=100))
WAITING = CountPolicy(("PACS",), settle_on_count=False, extra_quiet=timedelta(seconds=100))


@pytest.fixture
def sent(database: Database) -> Database:
    """Series 1: two images of a PACS at 0 and 2 seconds, over an association that ended at 3."""
    with database.write() as session:
        association = open_association(session, "PACS", "10.0.0.1", "host:1", later(0))
        for number, seconds in ((1, 0), (2, 2)):
            add_instance(session, new_instance(number, association_id=association), later(seconds))
        close_association(session, association, later(3))
    return database


def _complete(
    database: Database, seconds: float, policy: CountPolicy = SILENCE, awaited: tuple[str, ...] = ()
) -> list[int]:
    with database.read() as session:
        complete = series_to_settle(session, later(seconds), QUIET, IDLE, policy, awaited)
    assert all(last == later(2) for _, last in complete)
    return [series_id for series_id, _ in complete]


def _due(database: Database, seconds: float, title: str = "PACS") -> list[int]:
    with database.read() as session:
        return [series.id for series in series_to_count(session, title, later(seconds), LULL, RECOUNT)]


def _count(database: Database, seconds: float, images: int | None) -> None:
    with database.write() as session:
        record_count(session, 1, later(seconds), images)


def _expected(database: Database) -> int | None:
    with database.read() as session:
        return expected_now(session.get_one(SeriesRow, 1))


def test_complete_after_a_quiet_time_from_the_end_of_the_association(sent: Database) -> None:
    assert [_complete(sent, seconds) for seconds in (12, 12.9, 13)] == [[], [], [1]]


def test_an_association_without_an_end_holds_its_series_twice_the_idle_time(database: Database) -> None:
    with database.write() as session:
        association = open_association(session, "PACS", "10.0.0.1", "dead:1", later(0))
        add_instance(session, new_instance(association_id=association), later(2))
    assert [_complete(database, seconds) for seconds in (121.9, 122)] == [[], [1]]


def test_an_association_that_its_sender_keeps_open_holds_its_series_the_idle_time(database: Database) -> None:
    with database.write() as session:
        association = open_association(session, "PACS", "10.0.0.1", "here:1", later(0))
        add_instance(session, new_instance(association_id=association), later(2))
    with database.read() as session:
        assert broken_transfers(session, 1, ["here:1"]) == {}
        assert broken_transfers(session, 1) == {"lost": 1}
        for seconds, complete in ((61.9, []), (62, [1])):
            rows = series_to_settle(session, later(seconds), QUIET, IDLE, SILENCE, living=["other:1", "here:1"])
            assert [series_id for series_id, _ in rows] == complete


def test_a_count_brings_completion_forward_or_delays_it(sent: Database) -> None:
    assert _complete(sent, 13, ON_COUNT) == []  # the count is awaited
    assert _complete(sent, 112, ON_COUNT) == [1]
    _count(sent, 4, 3)
    assert [_complete(sent, seconds, WAITING) for seconds in (13, 112)] == [[], [1]]
    _count(sent, 5, 2)
    assert _complete(sent, 5, ON_COUNT) == [1]
    assert [_complete(sent, seconds, WAITING) for seconds in (5, 13)] == [[], [1]]


def test_a_series_that_waits_for_a_model_is_left_out(sent: Database) -> None:
    with sent.write() as session:
        session.get_one(SeriesRow, 1).detail = "model-x"
    assert _complete(sent, 13, awaited=("model-x",)) == []
    assert _complete(sent, 13, awaited=("model-y",)) == [1]


def test_a_count_is_requested_in_a_lull_and_again_while_images_are_missing(sent: Database) -> None:
    assert [_due(sent, seconds) for seconds in (2.9, 3)] == [[], [1]]
    assert _due(sent, 3, "OTHER") == []
    _count(sent, 3, 5)
    assert [_due(sent, seconds) for seconds in (7.9, 8)] == [[], [1]]
    _count(sent, 8, 2)
    assert _due(sent, 900) == []


def test_a_count_holds_until_another_image_comes(sent: Database) -> None:
    assert _expected(sent) is None
    _count(sent, 4, 5)
    assert _expected(sent) == 5
    _count(sent, 5, None)  # no answer: the earlier number stays
    assert _expected(sent) == 5
    with sent.write() as session:
        add_instance(session, new_instance(3), later(6))
    assert _expected(sent) is None
    _count(sent, 7, None)
    assert _expected(sent) is None
