"""When a study is due, and that it is answered once for each set of its series' answers; on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import event, select, update

from tests.testbed.instances import MODEL, later
from tests.testbed.rows import queued_job
from tests.testbed.studies import STUDY, classify, receive, refuse, report_study
from worker.db.engine import Database
from worker.db.jobs import lease_owners, release_leases_of
from worker.db.models import models_to_serve
from worker.db.studies.answering import (
    StudyInputs,
    StudyLineage,
    StudySettling,
    add_study_result,
    claim_study,
    latest_model,
    park_study,
    postpone_study,
    retry_parked_studies,
    study_inputs,
    study_is_due,
    study_lineage,
)
from worker.db.tables import (
    DeliveryRow,
    JobRow,
    JobState,
    ModelRow,
    ModelState,
    ObjectRow,
    SeriesRow,
    StudyResultRow,
    StudyRow,
    StudyState,
)
from worker.dicom.standard import produced_series_uid
from worker.inference.study.fusion import EQUAL_WEIGHTS, fuse
from worker.results import SeriesAnswer, StudyResult

SETTLING, LEASE = StudySettling(timedelta(seconds=5), timedelta(seconds=60)), timedelta(seconds=30)


def due(database: Database, seconds: float) -> bool:
    with database.read() as session:
        return study_is_due(session, later(seconds), SETTLING)


def claim(database: Database, seconds: float = 10, owner: str = "host:1") -> int | None:
    with database.write() as session:
        study = claim_study(session, owner, later(seconds), SETTLING, LEASE)
        return study.id if study else None


def inputs(database: Database) -> StudyInputs:
    with database.read() as session:
        return study_inputs(session, STUDY)


def result(label: str = "glioma") -> StudyResult:
    probabilities = {"glioma": 0.9, "notumor": 0.1}
    return fuse([SeriesAnswer("1.2", 1, "T1", "axial", label, None, 0.9, probabilities)], MODEL, EQUAL_WEIGHTS)


def add(database: Database, taken: StudyInputs, seconds: float = 11) -> bool:
    with database.write() as session:
        study = session.scalars(select(StudyRow)).one()
        return add_study_result(session, study.id, taken, taken.model_id, result(), later(seconds)) is not None


def answers(database: Database) -> list[tuple[int, str | None]]:
    with database.read() as session:
        rows = session.scalars(select(StudyResultRow).order_by(StudyResultRow.id))
        return [(row.number, row.label) for row in rows]


def test_a_study_is_due_once_it_was_quiet(database: Database) -> None:
    classify(database, "a", seconds=0)
    assert [due(database, seconds) for seconds in (0, 4.9, 5.1)] == [False, False, True]


def test_a_look_while_no_study_is_open_is_a_single_query(database: Database) -> None:
    queries: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: queries.append(call[2]))
    classify(database, "a")
    assert add(database, inputs(database))
    queries.clear()
    assert not due(database, 60)
    [asked] = [query for query in queries if query.startswith("SELECT")]
    assert "series" not in asked


def test_an_open_series_and_a_job_delay_it(database: Database) -> None:
    classify(database, "a")
    series_id = receive(database, "b")
    assert not due(database, 60)
    with database.write() as session:
        job = queued_job(session, series_id, 1)
    assert not due(database, 60)
    with database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job.id).values(state=JobState.PARKED, finished_at=later(50)))
    assert due(database, 50), "its senders have been quiet long enough"


def test_a_shadow_job_delays_nothing(database: Database) -> None:
    series_id = classify(database, "a")
    with database.write() as session:
        session.execute(update(JobRow).values(shadow=True, state=JobState.PENDING))
    assert series_id
    assert due(database, 10)


def test_a_claimed_study_is_claimed_again_after_its_lease_or_when_its_process_died(database: Database) -> None:
    classify(database, "a")
    assert claim(database) == 1
    assert claim(database, 20) is None
    assert claim(database, 41) == 1
    with database.write() as session:
        assert lease_owners(session) == {"host:1"}
        release_leases_of(session, "host:1", later(42))
    assert claim(database, 42) == 1
    with database.read() as session:
        assert session.scalars(select(StudyRow)).one().attempts == 3


def test_a_set_of_answers_is_answered_once(database: Database) -> None:
    classify(database, "a")
    taken = inputs(database)
    assert add(database, taken)
    assert not due(database, 60)
    assert not add(database, taken), "the study is answered"
    with database.write() as session:
        session.execute(update(StudyRow).values(state=StudyState.OPEN))  # opened by nothing new
    assert not add(database, taken)
    assert answers(database) == [(1, "glioma")]
    assert not due(database, 60)


def test_a_late_series_leads_to_one_more_answer(database: Database) -> None:
    classify(database, "a")
    early = inputs(database)
    classify(database, "b")
    assert not add(database, early), "its series say more by now"
    assert due(database, 60)
    assert add(database, inputs(database))
    refuse(database, "c", "modality")
    assert due(database, 60)
    assert add(database, inputs(database))
    assert answers(database) == [(1, "glioma"), (2, "glioma")]


@pytest.mark.parametrize(("reason", "modality"), [("modality", "KO"), ("modality", "SR"), ("produced", "OT")])
def test_a_document_that_comes_later_leads_to_no_other_answer(database: Database, reason: str, modality: str) -> None:
    classify(database, "a")
    assert add(database, inputs(database))
    refuse(database, "marks", reason, 20, modality=modality)
    refused = inputs(database)
    assert len(refused.series) == 1
    assert not add(database, refused, 40)
    assert answers(database) == [(1, "glioma")]
    refuse(database, "ct", "modality", 50, modality="CT")
    assert len(inputs(database).series) == 2, "images count, whatever they show"


def test_a_study_of_documents_alone_has_them(database: Database) -> None:
    refuse(database, "marks", "modality", modality="KO")
    assert [series.reason for series in inputs(database).series] == ["modality"]


def test_what_the_series_say(database: Database) -> None:
    classify(database, "a", 0.8)
    refuse(database, "knee", "body-part")
    receive(database, "open")
    said = {(item.status, item.label, item.reason) for item in inputs(database).series}
    assert said == {
        ("classified", "glioma", None),
        ("refused", None, "body-part"),
        ("pending", None, "pending"),
    }
    assert inputs(database).model_id == 1
    assert {item.file for item in inputs(database).series} == {
        f"instances/{name}/1.dcm" for name in ("a", "knee", "open")
    }


def test_a_study_that_no_model_answered_ends_without_a_result(database: Database) -> None:
    refuse(database, "a", "modality")
    taken = inputs(database)
    assert taken.model_id is None
    with database.write() as session:
        assert add_study_result(session, 1, taken, None, None, later(9)) is None
        assert latest_model(session, 1) is None
    assert not due(database, 60)
    assert answers(database) == []


def test_attempts_are_postponed_and_spent_and_granted_again(database: Database) -> None:
    classify(database, "a")
    claim(database)
    with database.write() as session:
        postpone_study(session, 1, "another:2", later(10), "x", "it is not theirs")
        postpone_study(session, 1, "host:1", later(20), "fusion-fault", "a fault")
    assert [due(database, seconds) for seconds in (19, 20)] == [False, True]
    claim(database, 20)
    with database.write() as session:
        park_study(session, 1, "host:1", "fusion-fault", "a fault")
    assert not due(database, 600)
    with database.write() as session:
        assert retry_parked_studies(session, ["1.2.3"]) == []
        assert retry_parked_studies(session) == [STUDY]
    assert due(database, 600)


def test_the_model_of_an_open_study_is_served_until_it_is_answered(database: Database) -> None:
    classify(database, "a")
    with database.write() as session:
        session.execute(update(ModelRow).values(state=ModelState.RETIRED))
        assert [row.id for row in models_to_serve(session)] == [1]
    add(database, inputs(database))
    with database.read() as session:
        assert models_to_serve(session) == []


@pytest.mark.parametrize("change", ["probability", "patient"])
def test_the_identity_of_the_answers(database: Database, change: str) -> None:
    classify(database, "a")
    before = inputs(database).sha256
    assert inputs(database).sha256 == before
    if change == "probability":
        classify(database, "a", 0.7, number=2)
    else:
        receive(database, "b", patient_id="ANOTHER")
    assert inputs(database).sha256 != before


def test_the_objects_of_an_answer_are_queued_with_it(database: Database) -> None:
    classify(database, "a")
    row_id = report_study(database)
    with database.read() as session:
        [produced] = session.scalars(select(ObjectRow))
        [delivery] = session.scalars(select(DeliveryRow))
        assert (produced.result, produced.path) == ((None, row_id), "objects/s")
        assert produced.series_instance_uid == produced_series_uid("report", STUDY, MODEL.sha256)
        assert (delivery.object_id, delivery.destination, delivery.state) == (produced.id, "pacs", "pending")
        assert study_lineage(session, 1) == StudyLineage(2, ("objects/s",))


def test_an_answer_with_objects_that_follow_another_report_is_not_added(database: Database) -> None:
    classify(database, "a")
    report_study(database)
    classify(database, "b", seconds=70, number=2)
    taken = inputs(database)
    with database.write() as session:
        study = session.scalars(select(StudyRow)).one()
        arguments = (study.id, taken, taken.model_id, result(), later(80), [], [])
        assert add_study_result(session, *arguments, number=1) is None
        assert study.state == StudyState.OPEN
        assert add_study_result(session, *arguments, number=2) is not None


def test_the_answer_of_a_series_before_a_correction_is_another(database: Database) -> None:
    classify(database, "a")
    before = inputs(database)
    with database.write() as session:
        session.execute(update(SeriesRow).values(corrections=1))
    assert inputs(database).sha256 != before.sha256
