"""What opens a study, on both databases."""

from __future__ import annotations

from sqlalchemy import select, update

from tests.testbed.instances import later, new_instance
from tests.testbed.studies import STUDY, classify, receive, refuse
from worker.db.engine import Database
from worker.db.series import reconsider_series
from worker.db.studies.opening import open_studies, open_studies_of
from worker.db.tables import InstanceRow, StudyRow, StudyState
from worker.db.versions.corrections import correct_instances
from worker.dicom.standard import derive_uid


def states(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {row.study_instance_uid: row.state for row in session.scalars(select(StudyRow))}


def settle(database: Database) -> None:
    with database.write() as session:
        session.execute(update(StudyRow).values(state=StudyState.PARKED, attempts=3, reason="x"))


def test_a_received_series_has_a_study_and_opens_none_that_was_answered(database: Database) -> None:
    receive(database, "a")
    assert states(database) == {STUDY: "open"}
    settle(database)
    receive(database, "b")
    assert states(database) == {STUDY: "parked"}


def test_an_answer_and_a_refusal_open_their_study(database: Database) -> None:
    classify(database, "a")
    assert states(database) == {STUDY: "open"}
    settle(database)
    refuse(database, "b", "modality")
    assert states(database) == {STUDY: "open"}
    with database.read() as session:
        row = session.scalars(select(StudyRow)).one()
        assert (row.attempts, row.reason) == (0, None)


def test_a_refused_series_that_settles_again_opens_its_study(database: Database) -> None:
    refuse(database, "a", "modality")
    settle(database)
    with database.write() as session:
        assert reconsider_series(session, derive_uid("series", "a"))
    assert states(database) == {STUDY: "open"}


def test_a_corrected_image_opens_the_study_that_it_leaves(database: Database) -> None:
    classify(database, "a")
    settle(database)
    other = derive_uid("study", "another")
    with database.write() as session:
        row = session.scalars(select(InstanceRow)).one()
        correct_instances(session, [(row, new_instance(1, "a", study_instance_uid=other, sha256="2" * 64))], later(5))
    assert states(database) == {STUDY: "open", other: "open"}


def test_many_series_open_their_studies_once(database: Database) -> None:
    ids = [receive(database, name) for name in "ab"]
    with database.write() as session:
        open_studies_of(session, [*ids, *range(1000, 2100)])
        open_studies(session, [])
    assert states(database) == {STUDY: "open"}
