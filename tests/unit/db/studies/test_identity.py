"""Series with images of several studies are known to each of them; on both databases."""

from __future__ import annotations

from sqlalchemy import select

from tests.testbed.instances import later, new_instance
from tests.testbed.studies import STUDY, classify, receive, refuse
from worker.db.engine import Database
from worker.db.instances import IDENTITY_KEY, add_instance
from worker.db.studies.answering import study_inputs
from worker.db.studies.identity import person_before, record_other_studies
from worker.db.tables import SeriesRow, StudyRow, StudyState
from worker.db.views.search import Search
from worker.db.views.worklist.pages import find_study_page


def record(database: Database, series_id: int, *studies: str) -> dict[str, str]:
    """The states of the studies afterwards, all of which were answered before."""
    with database.write() as session:
        for row in session.scalars(select(StudyRow)):
            row.state = StudyState.ANSWERED
        session.flush()
        record_other_studies(session, session.get_one(SeriesRow, series_id), studies)
    with database.read() as session:
        return {row.study_instance_uid: row.state for row in session.scalars(select(StudyRow))}


def series_of(database: Database, study: str) -> list[str | None]:
    with database.read() as session:
        return [item.reason for item in study_inputs(session, study).series]


def test_each_study_knows_the_series_and_is_opened_when_it_joins_or_leaves(database: Database) -> None:
    series_id = refuse(database, "a", "mixed-studies")
    classify(database, "b", study_instance_uid="1.2.3")
    assert record(database, series_id, STUDY, "1.2.3", "1.2.4") == {STUDY: "answered", "1.2.3": "open", "1.2.4": "open"}
    assert [len(series_of(database, uid)) for uid in (STUDY, "1.2.3", "1.2.4")] == [1, 2, 1]
    assert "mixed-studies" in series_of(database, "1.2.3")
    assert record(database, series_id, "1.2.3", "1.2.4") == dict.fromkeys((STUDY, "1.2.3", "1.2.4"), "answered")
    assert record(database, series_id)["1.2.3"] == "open"
    assert [len(series_of(database, uid)) for uid in (STUDY, "1.2.3", "1.2.4")] == [1, 1, 0]


def test_a_study_within_a_series_of_another_is_found_as_that(database: Database) -> None:
    series_id = refuse(database, "a", "mixed-studies")
    classify(database, "b", study_instance_uid="1.2.3.4.5")
    record(database, series_id, STUDY, "1.2.3.4.5", "1.2.3.4.6")
    with database.read() as session:

        def found(**search: str) -> list[str]:
            return [study.study_instance_uid for study in find_study_page(session, Search(**search), 10).studies]

        assert found(study_instance_uid="1.2.3.4.6") == found(text="1.2.3.4.6") == [STUDY]
        assert found(study_instance_uid="1.2.3.4.5") == found(text="1.2.3.4.5") == ["1.2.3.4.5"], "it has series too"
        assert found(study_instance_uid="1.2.3.4.7") == []


def add(database: Database, name: str, person: str | None, seconds: float) -> int:
    identity = {"patient": "P", "study": STUDY} | ({"person": person} if person else {})
    new = new_instance(1, name, study_instance_uid=STUDY, attributes={IDENTITY_KEY: identity})
    with database.write() as session:
        return add_instance(session, new, later(seconds)).series_id


def test_what_was_said_last_before_a_series(database: Database) -> None:
    first, second, third = (add(database, name, name, seconds) for name, seconds in (("a", 0), ("b", 5), ("c", 9)))
    with database.read() as session:
        rows = [session.get_one(SeriesRow, number) for number in (first, second, third)]
        assert [person_before(session, row) for row in rows] == [None, "a", "b"]
    receive(database, "alone", study_instance_uid="1.2.9")
    with database.read() as session:
        assert person_before(session, session.scalars(select(SeriesRow).order_by(SeriesRow.id.desc())).first()) is None
