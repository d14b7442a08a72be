"""Rows of series: locked, refused, queued; on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from tests.testbed.instances import MODEL, classified, later, new_instance
from tests.testbed.rows import add_series, queued_job
from worker.db.engine import Database
from worker.db.instances import add_instance, instances_of
from worker.db.jobs import claim_job, end_job
from worker.db.models import NotPossible, model_row, models_to_serve
from worker.db.results import add_shadow_result
from worker.db.series import (
    classify_again,
    lock_open_series,
    queue_series,
    refuse_series,
)
from worker.db.tables import (
    DETAIL_LENGTH,
    InstanceRow,
    JobRow,
    JobState,
    ModelRow,
    ModelState,
    SeriesRow,
    SeriesState,
    SeriesStatus,
    ShadowResultRow,
)


def test_a_series_is_locked_while_it_is_open_and_silent(database: Database) -> None:
    with database.write() as session:
        number = add_instance(session, new_instance(), later(5)).series_id
        assert lock_open_series(session, number, later(4)) is None
        assert lock_open_series(session, number, later(5)) is not None
        assert lock_open_series(session, number + 1, later(5)) is None
    add_series(database, "b", SeriesStatus.REFUSED, 5)
    with database.write() as session:
        assert lock_open_series(session, 2, later(9)) is None


def test_a_refusal_has_its_reason_and_no_answer(database: Database) -> None:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    with database.write() as session:
        series = session.get_one(SeriesRow, 1)
        refuse_series(series, "too-few-slices", "x" * 5000, later(3))
    with database.read() as session:
        series = session.get_one(SeriesRow, 1)
    assert (series.state, series.reason, series.settled_at) == (SeriesState.REFUSED, "too-few-slices", later(3))
    assert len(series.detail or "") == DETAIL_LENGTH
    assert (series.status, series.label, series.probability, series.answered_job_id) == ("refused", None, None, None)


def test_a_model_has_a_single_job_per_input_set(database: Database) -> None:
    with database.write() as session:
        number = add_instance(session, new_instance(1), later(0)).series_id
        first = queued_job(session, number)
        series = session.get_one(SeriesRow, number)
        assert queue_series(session, series, first.model_id, later(1)) is None
        assert first.last_instance_id == instances_of(session, number)[-1].id


def test_a_larger_input_set_supersedes_waiting_jobs(database: Database) -> None:
    with database.write() as session:
        number = add_instance(session, new_instance(1), later(0)).series_id
        first = queued_job(session, number)
        add_instance(session, new_instance(2), later(1))
        second = queued_job(session, number, 1)
        assert second.input_sha256 != first.input_sha256
        numbers = (first.id, second.id)
    with database.read() as session:
        first, second = (session.get_one(JobRow, job) for job in numbers)
        assert (first.state, first.reason, first.finished_at) == ("superseded", "more-instances-came", later(1))
        assert second.state == JobState.PENDING
        assert session.get_one(SeriesRow, 1).state == SeriesState.QUEUED


def test_an_answered_series_is_classified_again_by_a_model_that_is_not_active(database: Database) -> None:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    add_series(database, "b", SeriesStatus.REFUSED)
    with database.write() as session:
        uids = list(session.scalars(select(SeriesRow.series_instance_uid).order_by(SeriesRow.id)))
        other = model_row(session, replace(MODEL, version="2.0", sha256="cd" * 32), later(0))
        other.state = ModelState.ADDED
        job = classify_again(session, uids[0], other, later(50))
        assert (job.state, job.model_id, job.shadow) == (JobState.PENDING, other.id, False)
        assert other in models_to_serve(session)
        for uid, why in ((uids[0], "has a job for these images already"), (uids[1], "is refused"), ("1.2", "settled")):
            with pytest.raises(NotPossible, match=why):
                classify_again(session, uid, other, later(60))
        session.execute(update(InstanceRow).values(removed_at=later(70)))
        session.expire_all()
        with pytest.raises(NotPossible, match="deleted by retention"):
            classify_again(session, uids[0], other, later(80))


def test_a_model_answers_in_earnest_what_it_classified_in_shadow(database: Database) -> None:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    with database.write() as session:
        series = session.get_one(SeriesRow, 1)
        other = model_row(session, replace(MODEL, version="2.0", sha256="cd" * 32), later(0))
        shadow = queue_series(session, series, other.id, later(10), shadow=True)
        assert shadow is not None
        claimed = claim_job(session, "me", other.id, later(10), timedelta(seconds=30), shadow=True)
        assert claimed is not None
        with pytest.raises(NotPossible, match="runs in shadow on these images: try again"):
            classify_again(session, series.series_instance_uid, other, later(11))
        end_job(session, claimed.id, "me", JobState.DONE, later(12))
        add_shadow_result(session, claimed, classified([new_instance()]), later(12))
    with database.write() as session:
        series, other = session.get_one(SeriesRow, 1), session.scalars(select(ModelRow).order_by(ModelRow.id)).all()[-1]
        job = classify_again(session, series.series_instance_uid, other, later(20))
        assert (job.state, job.shadow, job.model_id) == (JobState.PENDING, False, other.id)
        with pytest.raises(NotPossible, match="has a job for these images already"):
            classify_again(session, series.series_instance_uid, other, later(21))
    with database.read() as session:
        assert session.scalars(select(ShadowResultRow)).all() == []
        assert [job.shadow for job in session.scalars(select(JobRow).where(JobRow.model_id == other.id))] == [False]
