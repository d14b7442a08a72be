"""What the worklist sees of a study, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from tests.testbed.instances import later, new_instance
from tests.testbed.studies import STUDY, classify, receive, refuse
from tests.unit.jobs.test_studies import SERVED, runner
from worker.db.engine import Database
from worker.db.studies.answering import retry_parked_studies
from worker.db.studies.summary import summarise_studies
from worker.db.tables import InstanceRow, StudyRow, StudyState
from worker.db.versions.corrections import correct_instances
from worker.dicom.standard import derive_uid


def seen(database: Database, uid: str = STUDY) -> tuple[Any, ...]:
    with database.read() as session:
        row = session.scalars(select(StudyRow).where(StudyRow.study_instance_uid == uid)).one()
        return row.status, row.label, row.probability, row.read_state


def test_a_study_waits_until_it_is_answered_and_keeps_its_answer(database: Database, tmp_path: Path) -> None:
    receive(database, "a", seconds=3)
    assert seen(database) == ("pending", None, None, "unread")
    classify(database, "a", 0.9, 4, number=2)
    refuse(database, "knee", "body-part", 5)
    assert seen(database) == ("pending", None, None, "unread")
    runner(database, tmp_path, 20).run_next(SERVED)
    assert seen(database) == ("classified", "glioma", 0.9, "unread")
    receive(database, "late", seconds=30)
    assert seen(database)[0] == "classified"
    with database.read() as session:
        assert session.scalars(select(StudyRow.received_at)).one() == later(3)


def test_a_study_of_refused_series_is_refused(database: Database, tmp_path: Path) -> None:
    refuse(database, "a", "modality")
    assert seen(database)[0] == "refused"
    runner(database, tmp_path).run_next(SERVED)
    assert seen(database)[0] == "refused"
    receive(database, "b", seconds=20)
    assert seen(database)[0] == "pending"


def test_a_parked_study_failed_until_it_is_retried(database: Database, tmp_path: Path) -> None:
    classify(database, "a")
    for second in (10, 20, 40):
        runner(database, tmp_path, second).run_next({})
    assert seen(database)[0] == "failed"
    with database.write() as session:
        assert retry_parked_studies(session) == [STUDY]
    assert seen(database)[0] == "pending"


def test_a_study_from_before_studies_were_answered_has_the_label_of_all_its_series(database: Database) -> None:
    def summarised() -> tuple[Any, ...]:
        with database.write() as session:
            session.execute(update(StudyRow).values(state=StudyState.ANSWERED))
            summarise_studies(session, [STUDY])
        return seen(database)[:3]

    classify(database, "a", 0.9)
    assert summarised() == ("classified", "glioma", 0.9)
    classify(database, "b", 0.8)
    assert summarised() == ("classified", "glioma", None)
    classify(database, "c", 0.2)
    assert summarised() == ("classified", None, None)


def test_a_study_that_its_series_left_is_not_listed(database: Database) -> None:
    receive(database, "a")
    other = derive_uid("study", "corrected")
    with database.write() as session:
        row = session.scalars(select(InstanceRow)).one()
        correct_instances(session, [(row, new_instance(1, "a", study_instance_uid=other))], later(9))
    with database.read() as session:
        rows = session.execute(select(StudyRow.study_instance_uid, StudyRow.received_at)).all()
    assert {uid: at is not None for uid, at in rows} == {STUDY: False, other: True}
