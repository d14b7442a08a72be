"""Rows of series with every outcome, for tests of the database that need no file."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.db.engine import Database
from worker.db.instances import NewInstance, add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series, refuse_series
from worker.db.tables import JobRow, JobState, ObjectKind, SeriesStatus
from worker.dicom.standard import derive_uid

LEASE = timedelta(seconds=30)
REPORT_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"


def add_series(
    database: Database, name: str, outcome: SeriesStatus, seconds: float = 0, probability: float = 0.9
) -> int:
    """A series of a single instance with that outcome, all of it at one moment; its row id."""
    new = new_instance(1, name)
    with database.write() as session:
        series_id = add_instance(session, new, later(seconds)).series_id
        if outcome is SeriesStatus.REFUSED:
            series = lock_open_series(session, series_id, later(seconds))
            assert series is not None
            refuse_series(series, "modality", "modality CT", later(seconds))
        elif outcome is SeriesStatus.FAILED:
            job = claimed_job(session, series_id, seconds)
            end_job(session, job.id, "me", JobState.PARKED, later(seconds), reason="process-died", detail="it died")
        elif outcome is SeriesStatus.CLASSIFIED:
            answer(session, claimed_job(session, series_id, seconds), [new], name, seconds, probability)
        else:
            model_row(session, MODEL, later(0))
    return series_id


def queued_job(
    session: Session, series_id: int, seconds: float = 0, *, shadow: bool = False, urgent: bool = False
) -> JobRow:
    """A pending job of the test model on an open series."""
    series = lock_open_series(session, series_id, later(seconds))
    assert series is not None
    model_id = model_row(session, MODEL, later(0)).id
    job = queue_series(session, series, model_id, later(seconds), shadow=shadow, urgent=urgent)
    assert job is not None
    return job


def claimed_job(session: Session, series_id: int, seconds: float = 0, owner: str = "me") -> JobRow:
    """A running job of the test model on an open series."""
    queued_job(session, series_id, seconds)
    job = claim_job(session, owner, model_row(session, MODEL, later(0)).id, later(seconds), LEASE)
    assert job is not None
    assert job.series_id == series_id
    return job


def answer(
    session: Session, job: JobRow, new: list[NewInstance], name: str, seconds: float, probability: float = 0.9
) -> None:
    """End a job with a glioma and a report for the destination `pacs`."""
    end_job(session, job.id, "me", JobState.DONE, later(seconds))
    report = NewObject(ObjectKind.REPORT, REPORT_SOP_CLASS, derive_uid("report", name), f"objects/{name}", "00" * 32)
    first = job.last_instance_id - len(new) + 1
    ids = {instance.sop_instance_uid: first + index for index, instance in enumerate(new)}
    add_result(session, job, classified(new, probability), ids, [report], ["pacs"], later(seconds))
