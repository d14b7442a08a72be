"""The answer of a series as searches see it, on both databases."""

from __future__ import annotations

import pytest

from tests.testbed.instances import classified, later, new_instance
from tests.testbed.rows import add_series, answer, claimed_job, queued_job
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import end_job
from worker.db.results import add_shadow_result
from worker.db.series_status import answer_series, unfinished_counts
from worker.db.tables import JobState, SeriesRow, SeriesStatus


def _answer(database: Database) -> tuple[str, str | None, int | None]:
    with database.write() as session:
        answer_series(session, [1])
    with database.read() as session:
        series = session.get_one(SeriesRow, 1)
        return series.status, series.label, series.answered_job_id


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (SeriesStatus.CLASSIFIED, ("classified", "glioma", 1)),
        (SeriesStatus.FAILED, ("failed", None, 1)),
        (SeriesStatus.PENDING, ("pending", None, None)),
        (SeriesStatus.REFUSED, ("refused", None, None)),
    ],
)
def test_the_last_job_that_ended_decides(
    database: Database, outcome: SeriesStatus, expected: tuple[str, str | None, int | None]
) -> None:
    add_series(database, "a", outcome)
    assert _answer(database) == expected


def test_an_earlier_answer_stays_until_the_next_job_ends(database: Database) -> None:
    add_series(database, "a", SeriesStatus.FAILED)
    new = new_instance(2, "a")
    with database.write() as session:
        add_instance(session, new, later(1))
        job = claimed_job(session, 1, 1)
    assert _answer(database) == ("failed", None, 1)
    with database.write() as session:
        answer(session, job, [new], "again", 2)
    assert _answer(database) == ("classified", "glioma", 2)


def test_a_shadow_job_never_answers(database: Database) -> None:
    with database.write() as session:
        number = add_instance(session, new_instance(), later(0)).series_id
        job = queued_job(session, number, shadow=True)
        job.state, job.lease_owner, job.lease_until = JobState.RUNNING, "me", later(30)
        session.flush()
        end_job(session, job.id, "me", JobState.DONE, later(1))
        add_shadow_result(session, job, classified(), later(1))
    assert _answer(database) == ("pending", None, None)


def test_unfinished_work_is_counted_by_state(database: Database) -> None:
    for name, outcome in zip("abc", (SeriesStatus.CLASSIFIED, SeriesStatus.FAILED, SeriesStatus.PENDING), strict=True):
        add_series(database, name, outcome)
    with database.read() as session:
        assert unfinished_counts(session) == {
            "series": {"open": 1},
            "jobs": {"pending": 0, "running": 0, "parked": 1},
            "studies": {"open": 3, "parked": 0},
            "deliveries": {"pending": 1, "sending": 0, "failed": 0},
        }
