"""Rows of jobs: claimed with a lease, ended, released, retried."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, func, or_, select, union_all, update
from sqlalchemy.orm import Session, aliased

from worker.db.series_status import answer_series
from worker.db.tables import URGENT, DeliveryRow, JobRow, JobState, SeriesRow, StudyRow, StudyState, cut_detail

# Separately, as an index finds each.
_UNFINISHED = union_all(
    *(select(JobRow.id).where(JobRow.state == state) for state in (JobState.PENDING, JobState.RUNNING)),
    select(StudyRow.id).where(StudyRow.state == StudyState.OPEN),
).limit(1)


def job_waits(session: Session, model_ids: Collection[int], now: datetime) -> bool:
    """Whether a job can be claimed. Takes no lock, so frequent polls ask this first."""
    return session.connection().scalar(_waiting(), {"model_ids": list(model_ids), "now": now}) is not None


@lru_cache
def _waiting() -> Select[int]:
    """The statement of `job_waits`, made once: that takes longer than to execute it."""
    is_claimable = or_(*_claimable_jobs(JobRow, bindparam("now")))
    return select(JobRow.id).where(JobRow.model_id.in_(bindparam("model_ids", expanding=True)), is_claimable).limit(1)


def work_waits(session: Session) -> bool:
    """Whether there is an unfinished job or an open study, which a retry, a lease or a quiet time may make due."""
    return session.connection().execute(_UNFINISHED).first() is not None


def _claimable_jobs(job: type[JobRow], now: datetime | BindParameter[datetime]) -> tuple[ColumnElement[bool], ...]:
    """The conditions of urgent jobs that are due, of jobs whose lease expired, and of jobs that are due.

    Queried separately they come from an index in order; together the whole queue would be sorted for each claim.
    """
    return (
        and_(URGENT, job.not_before <= now),
        and_(job.state == JobState.RUNNING, job.lease_until < now),
        and_(job.state == JobState.PENDING, job.not_before <= now),
    )


def claim_job(
    session: Session,
    owner: str,
    model_id: int | Collection[int],
    now: datetime,
    lease: timedelta,
    *,
    shadow: bool = False,
) -> JobRow | None:
    """Claim the oldest job of these models that may run now, leased to `owner`; `shadow` selects shadow jobs.

    Urgent jobs come first. A job whose lease expired may be claimed.
    """
    models = [model_id] if isinstance(model_id, int) else model_id
    candidate = aliased(JobRow)
    oldest = [
        select(candidate.id)
        .where(candidate.model_id.in_(models), candidate.shadow == shadow, claimable)
        .order_by(candidate.not_before, candidate.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
        for claimable in _claimable_jobs(candidate, now)
    ]
    leased: dict[str, Any] = {"state": JobState.RUNNING, "lease_owner": owner, "lease_until": now + lease}
    return session.scalar(
        update(JobRow)
        .where(JobRow.id == func.coalesce(*oldest))
        .values(attempts=JobRow.attempts + 1, **leased)
        .returning(JobRow),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )


def hurry_study(session: Session, study_instance_uid: str, urgent: bool) -> bool:
    """Make the pending jobs of a study urgent where `urgent`, or where a job of it is; whether they are."""
    of_study = SeriesRow.study_instance_uid == study_instance_uid
    jobs = select(JobRow.id).join(SeriesRow, SeriesRow.id == JobRow.series_id).where(of_study, ~JobRow.shadow)
    if not urgent and session.scalar(jobs.where(JobRow.urgent).limit(1)) is None:
        return False
    # Without those that another transaction has locked, for it supersedes or claims them: nobody waits for anybody.
    waiting = jobs.where(JobRow.state == JobState.PENDING, ~JobRow.urgent).with_for_update(of=JobRow, skip_locked=True)
    ids = list(session.scalars(waiting))
    session.execute(update(JobRow).where(JobRow.id.in_(ids)).values(urgent=True))
    return True


def job_exists(session: Session, job_id: int) -> bool:
    return session.get(JobRow, job_id) is not None


def adopt_jobs(session: Session, lost: Collection[int], model_id: int, now: datetime) -> int:
    """Reassign the waiting jobs of models whose bundles are gone to a model that is served; their number.

    Superseded instead are shadow jobs, and jobs whose series already has a job of that model for the same input.
    """
    waiting = session.scalars(
        select(JobRow)
        .where(JobRow.model_id.in_(lost))
        .where(
            or_(
                JobRow.state == JobState.PENDING,
                and_(JobRow.state == JobState.RUNNING, JobRow.lease_until < now),
            )
        )
        .order_by(JobRow.id)
        .with_for_update(skip_locked=True)
    ).all()
    for job in waiting:
        same = (JobRow.series_id == job.series_id, JobRow.input_sha256 == job.input_sha256)
        has_job = session.scalar(select(JobRow.id).where(JobRow.model_id == model_id, *same)) is not None
        job.lease_owner = job.lease_until = None  # together with the state, as the table requires
        if job.shadow or has_job:
            job.state, job.reason, job.finished_at = JobState.SUPERSEDED, "model-replaced", now
        else:
            job.model_id, job.state = model_id, JobState.PENDING
        session.flush()
    return len(waiting)


def extend_job_lease(session: Session, job_id: int, owner: str, until: datetime) -> bool:
    """False when the job is no longer leased to `owner`."""
    extended = session.execute(
        update(JobRow).where(JobRow.id == job_id, _leased_to(owner)).values(lease_until=until).returning(JobRow.id)
    )
    return extended.first() is not None


def _leased_to(owner: str) -> Any:
    return and_(JobRow.state == JobState.RUNNING, JobRow.lease_owner == owner)


def end_job(
    session: Session,
    job_id: int,
    owner: str,
    state: JobState,
    now: datetime,
    *,
    reason: str | None = None,
    detail: str | None = None,
    not_before: datetime | None = None,
) -> bool:
    """Give a leased job its next state; False (and nothing changes) when another owner has the lease."""
    values: dict[str, Any] = {
        "state": state,
        "reason": reason,
        "detail": cut_detail(detail),
        "lease_owner": None,
        "lease_until": None,
    }
    if state == JobState.PENDING:
        values["not_before"] = not_before or now
    else:
        values["finished_at"] = now
        _lock_series(session, JobRow.id == job_id)
    ended = session.execute(
        update(JobRow).where(JobRow.id == job_id, _leased_to(owner)).values(**values).returning(JobRow.series_id)
    ).first()
    if ended is not None and state == JobState.PARKED:
        answer_series(session, [ended.series_id])
    return ended is not None


def _lock_series(session: Session, *of_jobs: ColumnElement[bool]) -> None:
    """Lock the series of jobs before the jobs, as whoever settles or corrects a series does."""
    ids = select(JobRow.series_id).where(*of_jobs)
    session.execute(select(SeriesRow.id).where(SeriesRow.id.in_(ids)).order_by(SeriesRow.id).with_for_update())


def lease_owners(session: Session) -> set[str]:
    """The owners of all leases on jobs and deliveries."""
    jobs = session.scalars(select(JobRow.lease_owner).where(JobRow.lease_owner.is_not(None)).distinct())
    sends = session.scalars(select(DeliveryRow.lease_owner).where(DeliveryRow.lease_owner.is_not(None)).distinct())
    studies = session.scalars(
        select(StudyRow.lease_owner).where(StudyRow.state == StudyState.OPEN, StudyRow.lease_owner.is_not(None))
    )
    return {owner for owner in (*jobs, *sends, *studies) if owner}


def release_leases_of(session: Session, owner: str, now: datetime) -> None:
    """Expire the leases of an owner that is known to be dead; the attempts stay counted."""
    session.execute(update(JobRow).where(JobRow.lease_owner == owner).values(lease_until=now - timedelta(seconds=1)))
    session.execute(
        update(DeliveryRow).where(DeliveryRow.lease_owner == owner).values(lease_until=now - timedelta(seconds=1))
    )
    session.execute(
        update(StudyRow)
        .where(StudyRow.state == StudyState.OPEN, StudyRow.lease_owner == owner)
        .values(lease_owner=None, not_before=None)
    )


def record_death(session: Session, owner: str, reason: str, detail: str) -> int:
    """Record on the running jobs of a process why it died; the number of jobs."""
    recorded = update(JobRow).where(_leased_to(owner)).values(reason=reason, detail=detail).returning(JobRow.id)
    return len(session.scalars(recorded).all())


def retry_parked_jobs(session: Session, job_ids: Sequence[int], now: datetime) -> list[int]:
    """Return parked jobs to pending and reset their attempts; all parked jobs when no id is given. Their ids."""
    return _retry(session, [JobRow.id.in_(job_ids)] if job_ids else [], now)


def resume_jobs(session: Session, series_id: int, reasons: Collection[str], now: datetime) -> int:
    """Return the jobs of a series that are parked for such a reason to pending; their number."""
    return len(_retry(session, [JobRow.series_id == series_id, JobRow.reason.in_(reasons)], now))


def _retry(session: Session, conditions: Sequence[ColumnElement[bool]], now: datetime) -> list[int]:
    _lock_series(session, JobRow.state == JobState.PARKED, *conditions)
    query = update(JobRow).where(JobRow.state == JobState.PARKED, *conditions)
    fresh: dict[str, Any] = {"state": JobState.PENDING, "attempts": 0, "not_before": now, "reason": None}
    fresh |= {"detail": None, "finished_at": None}
    jobs = session.execute(query.values(**fresh).returning(JobRow.id, JobRow.series_id)).all()
    answer_series(session, [job.series_id for job in jobs])
    return [job.id for job in jobs]
