"""For which studies a sender is queried, and how its answer bears on when a study is due; on both databases."""

from __future__ import annotations

from datetime import timedelta

from tests.testbed.instances import later
from tests.testbed.rows import queued_job
from tests.testbed.studies import STUDY, classify, receive, refuse
from worker.db.engine import Database
from worker.db.instances import close_association, open_association
from worker.db.studies.answering import StudySettling, study_is_due
from worker.db.studies.counting import (
    NO_ANSWER,
    StudyCount,
    held_series,
    record_study_count,
    studies_to_count,
)

SETTLING = StudySettling(timedelta(seconds=5), timedelta(seconds=60))
PATIENCE, AGAIN = timedelta(seconds=65), timedelta(seconds=5)


def association(database: Database, ae_title: str = "PACS") -> int:
    with database.write() as session:
        number = open_association(session, ae_title, "127.0.0.1", "host:1", later(0))
        close_association(session, number, later(0))
    return number


def to_count(database: Database, seconds: float, ae_title: str = "PACS") -> list[str]:
    with database.read() as session:
        return studies_to_count(session, ae_title, later(seconds), PATIENCE, AGAIN)


def record(database: Database, count: StudyCount, seconds: float, ae_title: str = "PACS") -> None:
    with database.write() as session:
        record_study_count(session, STUDY, ae_title, later(seconds), count)


def due(database: Database, seconds: float) -> bool:
    with database.read() as session:
        return study_is_due(session, later(seconds), SETTLING)


def test_a_sender_is_queried_once_every_series_of_a_study_has_settled(database: Database) -> None:
    number = association(database)
    series_id = receive(database, "a", association_id=number)
    assert to_count(database, 1) == [], "its series is open"
    with database.write() as session:
        queued_job(session, series_id, 1)
    assert to_count(database, 2) == [STUDY], "while its job waits: the answer is there when the job ends"
    assert to_count(database, 2, "ANOTHER") == [], "who sent none of it"
    receive(database, "b", seconds=3)
    assert to_count(database, 4) == []


def test_an_answer_counts_until_something_of_the_study_changes(database: Database) -> None:
    refuse(database, "a", "modality", association_id=association(database))
    assert to_count(database, 1) == [STUDY]
    record(database, StudyCount(1, 0, 0), 1)
    assert to_count(database, 30) == []
    refuse(database, "b", "modality", seconds=31)
    assert to_count(database, 32) == [STUDY]


def test_what_lacks_is_queried_again_within_limits(database: Database) -> None:
    refuse(database, "a", "modality", association_id=association(database))
    for count in (StudyCount(2, 1, 0), NO_ANSWER):
        record(database, count, 1)
        assert [to_count(database, seconds) for seconds in (4, 7, 70)] == [[], [STUDY], []]


def test_a_whole_study_is_due_at_once(database: Database) -> None:
    classify(database, "a", seconds=1)
    record(database, StudyCount(1, 0, 0), 1)
    assert due(database, 1.1)


def test_a_count_before_the_last_series_settled_is_void(database: Database) -> None:
    classify(database, "a", seconds=1)
    record(database, StudyCount(1, 0, 0), 0.5)
    assert [due(database, seconds) for seconds in (2, 5.9, 6.1)] == [False, False, True]


def test_a_sender_that_has_more_delays_a_study_within_limits(database: Database) -> None:
    classify(database, "a", seconds=1)
    record(database, StudyCount(3, 2, 40), 1.5)
    assert [due(database, seconds) for seconds in (6.1, 65.9, 66.1)] == [False, False, True]


def test_no_answer_changes_nothing(database: Database) -> None:
    classify(database, "a", seconds=1)
    record(database, NO_ANSWER, 1.5)
    assert [due(database, seconds) for seconds in (2, 6.1)] == [False, True]


def test_of_two_senders_the_one_that_has_more_counts(database: Database) -> None:
    classify(database, "a", seconds=1)
    record(database, StudyCount(1, 0, 0), 1.5)
    record(database, StudyCount(2, 0, 5), 1.5, "ANOTHER")
    assert not due(database, 7)
    record(database, StudyCount(1, 0, 0), 7, "ANOTHER")
    assert due(database, 7)


def test_a_whole_study_still_waits_for_its_jobs(database: Database) -> None:
    classify(database, "a", seconds=1)
    series_id = receive(database, "b", seconds=2)
    with database.write() as session:
        queued_job(session, series_id, 3)
    record(database, StudyCount(2, 0, 0), 5)
    assert not due(database, 60)


def test_a_count_of_a_time_to_come_is_void(database: Database) -> None:
    classify(database, "a", seconds=1, association_id=association(database))
    record(database, StudyCount(1, 0, 0), 3600)
    assert not due(database, 2), "the clock was set back"
    assert to_count(database, 2) == [STUDY]


def test_what_is_held(database: Database) -> None:
    receive(database, "a")
    receive(database, "a", number=2)
    receive(database, "b")
    with database.read() as session:
        assert sorted(held_series(session, STUDY).values()) == [1, 2]
        assert held_series(session, "1.2.3") == {}
