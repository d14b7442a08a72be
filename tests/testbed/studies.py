"""Series of one study, as rows: classified, refused, or received and not yet settled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.testbed.instances import classified, later, new_instance
from tests.testbed.rows import claimed_job
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import end_job
from worker.db.results import add_result
from worker.db.series import lock_open_series, refuse_series
from worker.db.tables import JobState
from worker.dicom.standard import derive_uid

STUDY = derive_uid("study", "of several series")


def receive(database: Database, name: str, number: int = 1, seconds: float = 0, **changes: Any) -> int:
    """An instance of a series of the study; the row id of its series."""
    values = {"study_instance_uid": STUDY, "patient_id": "ID", "patient_name": "Family^Given", "accession_number": "A"}
    with database.write() as session:
        return add_instance(session, new_instance(number, name, **values | changes), later(seconds)).series_id


def classify(database: Database, name: str, probability: float = 0.9, seconds: float = 0, number: int = 1) -> int:
    """A series of the study that the test model answers with a glioma of that probability; no tumour below a half."""
    series_id = receive(database, name, number, seconds)
    with database.write() as session:
        job = claimed_job(session, series_id, seconds)
        end_job(session, job.id, "me", JobState.DONE, later(seconds))
        result = classified(probability=probability)
        if probability < 0.5:
            result = replace(result, label="notumor", probability=1 - probability)
        add_result(session, job, result, {}, [], [], later(seconds))
    return series_id


def refuse(database: Database, name: str, reason: str, seconds: float = 0, **changes: Any) -> int:
    """A series of the study that is refused."""
    series_id = receive(database, name, seconds=seconds, **changes)
    with database.write() as session:
        series = lock_open_series(session, series_id, later(seconds))
        assert series is not None
        refuse_series(series, reason, "a knee", later(seconds))
    return series_id
