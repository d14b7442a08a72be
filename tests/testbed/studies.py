"""Series of one study, as rows: classified, refused, or received and not yet settled."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from tests.testbed.instances import MODEL, classified, later, new_instance
from tests.testbed.rows import REPORT_SOP_CLASS, claimed_job
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import end_job
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, refuse_series
from worker.db.studies.answering import StudySettling, add_study_result, claim_study, study_inputs, study_lineage
from worker.db.tables import JobState, ObjectKind, StudyRow
from worker.dicom.standard import derive_uid
from worker.inference.study.fusion import EQUAL_WEIGHTS, fuse
from worker.results import SeriesAnswer

STUDY = derive_uid("study", "of several series")


def receive(database: Database, name: str, number: int = 1, seconds: float = 0, **changes: Any) -> int:
    """An instance of a series of the study; the row id of its series."""
    values = {"study_instance_uid": STUDY, "patient_id": "ID", "patient_name": "Family^Given", "accession_number": "A"}
    with database.write() as session:
        return add_instance(session, new_instance(number, name, **values | changes), later(seconds)).series_id


def classify(
    database: Database, name: str, probability: float = 0.9, seconds: float = 0, number: int = 1, **changes: Any
) -> int:
    """A series of the study that the test model answers with a glioma of that probability; no tumour below a half."""
    series_id = receive(database, name, number, seconds, **changes)
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


def report_study(database: Database, name: str = "s", seconds: float = 60, destination: str = "pacs") -> int:
    """The study answered with a report for a destination, stored as objects/`name`; the row id of the result."""
    report = NewObject(ObjectKind.REPORT, REPORT_SOP_CLASS, derive_uid("report", name), f"objects/{name}", "00" * 32)
    answer = SeriesAnswer("1.2", 1, "T1", "axial", "glioma", None, 0.9, {"glioma": 0.9, "notumor": 0.1})
    with database.write() as session:
        study = session.scalars(select(StudyRow)).one()
        assert claim_study(session, "me", later(seconds), StudySettling(timedelta()), timedelta(seconds=30)) is not None
        taken, follows = study_inputs(session, STUDY), study_lineage(session, study.id)
        row = add_study_result(
            session, study.id, taken, taken.model_id, fuse([answer], MODEL, EQUAL_WEIGHTS), later(seconds),
            [report], [destination], follows.number,
        )  # fmt: skip
        assert row is not None
        return row.id
