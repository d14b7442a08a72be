"""Claims, leases and states of jobs, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from tests.testbed.instances import MODEL, later, new_instance
from tests.testbed.rows import LEASE, add_series, claimed_job, queued_job
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import (
    adopt_jobs,
    claim_job,
    end_job,
    extend_job_lease,
    hurry_study,
    job_exists,
    job_waits,
    lease_owners,
    record_death,
    release_leases_of,
    retry_parked_jobs,
    work_waits,
)
from worker.db.models import model_row
from worker.db.series import queue_series
from worker.db.tables import DETAIL_LENGTH, JobRow, JobState, SeriesRow, SeriesStatus, StudyRow


@pytest.fixture
def queued(database: Database) -> Database:
    """Jobs 1 and 2 of the model 1, due at 0 and 5 seconds."""
    with database.write() as session:
        for name, seconds in (("a", 0), ("b", 5)):
            queued_job(session, add_instance(session, new_instance(1, name), later(0)).series_id, seconds)
    return database


def _job(database: Database, number: int) -> JobRow:
    with database.read() as session:
        return session.get_one(JobRow, number)


def _claim(database: Database, seconds: float, owner: str = "me") -> int | None:
    with database.write() as session:
        waits = job_waits(session, [1], later(seconds))
        job = claim_job(session, owner, 1, later(seconds), LEASE)
        assert waits == (job is not None)
        return job.id if job else None


def test_jobs_are_claimed_when_they_are_due_in_order(queued: Database) -> None:
    assert [_claim(queued, seconds) for seconds in (-1, 4, 4, 5, 5)] == [None, 1, None, 2, None]
    job = _job(queued, 1)
    assert (job.state, job.lease_owner, job.lease_until, job.attempts) == ("running", "me", later(34), 1)


def test_work_waits_while_a_job_is_unfinished_or_a_study_open(queued: Database) -> None:
    def waits() -> bool:
        with queued.read() as session:
            return work_waits(session)

    assert waits()  # two jobs
    for number in (_claim(queued, 5), _claim(queued, 5)):
        assert waits()  # a job that runs
        with queued.write() as session:
            assert number is not None
            end_job(session, number, "me", JobState.DONE, later(6))
    with queued.read() as session:
        assert [study.state for study in session.scalars(select(StudyRow))] == ["open"] * 2
    assert waits()  # for the quiet time of the studies
    with queued.write() as session:
        session.execute(update(StudyRow).values(state="parked"))
    assert not waits()


def test_an_expired_lease_is_claimed_before_new_work(queued: Database) -> None:
    assert _claim(queued, 0, "first") == 1
    assert _claim(queued, 31, "second") == 1
    job = _job(queued, 1)
    assert (job.lease_owner, job.attempts) == ("second", 2)


def test_urgent_jobs_are_claimed_first(queued: Database) -> None:
    with queued.write() as session:
        late = add_instance(session, new_instance(1, "late"), later(0)).series_id
        queued_job(session, late, 9, urgent=True)
    assert _claim(queued, 0) == 1, "it is not due yet"
    assert [_claim(queued, 40, "me") for _ in range(4)] == [3, 1, 2, None], "then an expired lease"


def test_the_rest_of_an_urgent_study_is_urgent_too(queued: Database) -> None:
    study = new_instance(1, "b").study_instance_uid
    with queued.write() as session:
        assert not hurry_study(session, study, urgent=False)
        assert hurry_study(session, study, urgent=True)
        assert hurry_study(session, study, urgent=False), "a series that comes later"
    assert [_claim(queued, 5), _claim(queued, 5)] == [2, 1]


def test_a_job_of_another_model_is_not_claimed(queued: Database) -> None:
    with queued.write() as session:
        assert claim_job(session, "me", 2, later(10), LEASE) is None
        assert claim_job(session, "me", [2], later(10), LEASE) is None
        assert claim_job(session, "me", 1, later(10), LEASE, shadow=True) is None
        assert claim_job(session, "me", [2, 1], later(10), LEASE) is not None


def test_who_lost_the_lease_changes_nothing(queued: Database) -> None:
    _claim(queued, 0, "first")
    _claim(queued, 31, "second")
    with queued.write() as session:
        assert not extend_job_lease(session, 1, "first", later(900))
        assert not end_job(session, 1, "first", JobState.DONE, later(40))
        assert extend_job_lease(session, 1, "second", later(900))
    job = _job(queued, 1)
    assert (job.state, job.lease_until) == ("running", later(900))


def test_a_job_ends_done_parked_or_pending_again(queued: Database) -> None:
    _claim(queued, 10)
    with queued.write() as session:
        assert end_job(session, 1, "me", JobState.PENDING, later(11), reason="r", not_before=later(60))
    job = _job(queued, 1)
    assert (job.state, job.not_before, job.lease_owner, job.finished_at) == ("pending", later(60), None, None)
    _claim(queued, 12)
    with queued.write() as session:
        assert end_job(session, 2, "me", JobState.PARKED, later(13), reason="r", detail="x" * 5000)
    job = _job(queued, 2)
    assert (job.state, job.finished_at, len(job.detail or "")) == ("parked", later(13), DETAIL_LENGTH)
    with queued.read() as session:
        assert session.get_one(SeriesRow, 2).status == SeriesStatus.FAILED


def test_leases_of_a_dead_owner_expire_at_once(queued: Database) -> None:
    _claim(queued, 10, "dead")
    _claim(queued, 10, "living")
    with queued.write() as session:
        assert lease_owners(session) == {"dead", "living"}
        assert record_death(session, "dead", "process-died", "SIGSEGV") == 1
        assert record_death(session, "nobody", "process-died", "SIGSEGV") == 0
        release_leases_of(session, "dead", later(11))
    assert (_job(queued, 1).reason, _job(queued, 1).detail) == ("process-died", "SIGSEGV")
    assert _job(queued, 2).reason is None
    assert [_claim(queued, 11), _claim(queued, 11)] == [1, None]


def test_parked_jobs_are_retried_by_number_or_all(database: Database) -> None:
    for name in "abc":
        add_series(database, name, SeriesStatus.FAILED)
    add_series(database, "d", SeriesStatus.CLASSIFIED)
    with database.write() as session:
        assert retry_parked_jobs(session, [2, 4, 99], later(50)) == [2]
        assert sorted(retry_parked_jobs(session, [], later(60))) == [1, 3]
        assert retry_parked_jobs(session, [], later(70)) == []
    job = _job(database, 2)
    assert (job.state, job.attempts, job.not_before, job.reason, job.finished_at) == (
        "pending",
        0,
        later(50),
        None,
        None,
    )
    with database.read() as session:
        assert session.get_one(SeriesRow, 2).status == SeriesStatus.PENDING


def test_whether_a_job_exists(queued: Database) -> None:
    with queued.read() as session:
        assert [job_exists(session, number) for number in (0, 1, 2, 3)] == [False, True, True, False]


def test_jobs_of_a_model_that_is_gone_go_to_another(database: Database) -> None:
    with database.write() as session:
        gone = model_row(session, MODEL, later(0)).id
        served = model_row(session, replace(MODEL, version="2.0", sha256="cd" * 32), later(0)).id
        for name in "abc":
            add_instance(session, new_instance(1, name), later(0))
        rows = [session.get_one(SeriesRow, number) for number in (1, 2, 3)]
        for series in rows:
            queue_series(session, series, gone, later(1))
        queue_series(session, rows[1], served, later(1))  # job 4: this series has a job of that model
        queue_series(session, rows[2], served, later(1), shadow=True)
        assert adopt_jobs(session, [gone], served, later(2)) == 3
    assert [(_job(database, n).model_id, _job(database, n).state) for n in (1, 2, 3)] == [
        (served, "pending"),
        (gone, "superseded"),
        (gone, "superseded"),
    ]


def test_a_job_under_way_is_not_taken_from_its_process(database: Database) -> None:
    with database.write() as session:
        claimed_job(session, add_instance(session, new_instance(), later(0)).series_id)
        other = model_row(session, replace(MODEL, version="2.0", sha256="cd" * 32), later(0)).id
        assert adopt_jobs(session, [1], other, later(1)) == 0
        assert adopt_jobs(session, [1], other, later(0) + LEASE + timedelta(seconds=1)) == 1
