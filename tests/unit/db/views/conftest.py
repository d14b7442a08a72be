"""A small archive on both databases, for the views that search it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.testbed.databases import empty_tables, make_tables
from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import JobState, ObjectKind
from worker.dicom.standard import derive_uid

SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Study a with two series, the first with a report; study b with a single series."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('archive') / 'worker.db'}")
        make_tables(database)
    else:
        empty_tables(request.getfixturevalue("shared_postgres"))
        database = Database(request.getfixturevalue("postgres_url"))
    _fill(database)
    yield database
    database.close()


def _fill(database: Database) -> None:
    with database.write() as session:
        model = model_row(session, MODEL, later(0)).id
        second = {"series_instance_uid": derive_uid("series", "a2"), "modality": "CT"}
        for new in (
            new_instance(1, "a", patient_name="Müller_x^Ada=山田", study_date="20260301"),
            new_instance(2, "a"),
            replace(new_instance(3, "a"), **second),
            new_instance(1, "b", patient_id="ID_b%", study_date="20250101", patient_name="Bo[b]"),
        ):
            row = add_instance(session, new, later(0))
            if new.sop_instance_uid == derive_uid("instance", "a", "2"):
                first = row
        series = lock_open_series(session, first.series_id, later(0))
        assert series is not None
        queue_series(session, series, model, later(0))
        job = claim_job(session, "me", model, later(0), timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, later(5))
        made = NewObject(ObjectKind.REPORT, SR, derive_uid("r"), "objects/r", "00" * 32)
        new = new_instance(2, "a")
        add_result(session, job, classified([new]), {new.sop_instance_uid: first.id}, [made], [], later(5))
