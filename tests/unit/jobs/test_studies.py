"""The answer for a study, of its series' rows; dying at each step loses and doubles nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.testbed.instances import MODEL, encoded, later, mr_instance, new_instance
from tests.testbed.studies import STUDY, classify, receive, refuse
from worker.db.engine import Database
from worker.db.instances import IDENTITY_KEY, instances_of
from worker.db.jobs import release_leases_of
from worker.db.series import refuse_series
from worker.db.studies.answering import StudySettling
from worker.db.tables import ModelRow, ResultRow, SeriesRow, StudyResultRow, StudyRow
from worker.db.versions.corrections import correct_instances
from worker.db.views.studies import find_study
from worker.dicom.standard import derive_uid
from worker.inference.study.fusion import SERIES_DISAGREE
from worker.jobs import studies
from worker.jobs.bundle_store import ServedModel
from worker.jobs.studies import StudyRunner, read_series_name


def _classify(_paths: Any) -> Any:
    raise AssertionError("a study reads no pixel")


SERVED = {1: ServedModel(MODEL, _classify)}


def runner(database: Database, tmp_path: Path, seconds: float = 10, owner: str = "host:1") -> StudyRunner:
    return StudyRunner(
        database,
        tmp_path,
        owner,
        lambda: later(seconds),
        lease=timedelta(seconds=30),
        settling=StudySettling(timedelta(seconds=5)),
        attempts=3,
    )


def rows(database: Database) -> list[StudyResultRow]:
    with database.read() as session:
        return list(session.scalars(select(StudyResultRow).order_by(StudyResultRow.id)))


def study(database: Database) -> StudyRow:
    with database.read() as session:
        return session.scalars(select(StudyRow)).one()


def test_a_study_of_a_head_and_a_knee_has_the_answer_of_the_head(database: Database, tmp_path: Path) -> None:
    classify(database, "a", 0.9)
    refuse(database, "knee", "body-part")
    assert runner(database, tmp_path).run_next(SERVED)
    assert not runner(database, tmp_path, 60).run_next(SERVED)
    [row] = rows(database)
    assert (row.status, row.label, row.probability, row.deciding) == (
        "classified",
        "glioma",
        0.9,
        derive_uid("series", "a"),
    )
    assert {item["answer"]["reason"]: item["weight"] for item in row.contributions} == {None: 1.0, "body-part": 0.0}
    assert study(database).state == "answered"


def test_series_that_contradict_each_other_are_named_by_their_numbers(database: Database, tmp_path: Path) -> None:
    for number, (name, probability) in enumerate([("a", 0.8), ("b", 0.2)], 4):
        classify(database, name, probability)
        (tmp_path / f"instances/{name}").mkdir(parents=True)
        (tmp_path / f"instances/{name}/1.dcm").write_bytes(encoded(mr_instance(1, name, SeriesNumber=number)))
    runner(database, tmp_path).run_next(SERVED)
    [row] = rows(database)
    assert (row.label, row.reason) == (None, SERIES_DISAGREE)
    assert row.contradiction == "series 4: Glioma; series 5: No tumour."


def test_a_late_series_leads_to_one_revised_answer(database: Database, tmp_path: Path) -> None:
    classify(database, "a")
    runner(database, tmp_path).run_next(SERVED)
    receive(database, "late", seconds=20)
    assert not runner(database, tmp_path, 60).run_next(SERVED), "it is not answered yet"
    classify(database, "late", seconds=70, number=2)
    assert runner(database, tmp_path, 80).run_next(SERVED)
    assert not runner(database, tmp_path, 90).run_next(SERVED)
    assert [row.number for row in rows(database)] == [1, 2]
    assert len(rows(database)[1].contributions) == 2


def test_a_study_of_two_patients_has_no_answer(database: Database, tmp_path: Path) -> None:
    classify(database, "a")
    refuse(database, "b", "modality", patient_id="ANOTHER")
    runner(database, tmp_path).run_next(SERVED)
    [row] = rows(database)
    assert (row.status, row.reason) == ("not-assessed", "mixed-patients")
    assert row.detail == "The series of this study are of 2 patients."


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ({"patient": "ID"}, None),
        ({"patient": "id"}, "mixed-patients"),  # as within a series
        ({"patient": "ID", "issuer": "B"}, "mixed-patients"),
        ({"patient": ""}, "mixed-patients"),
    ],
)
def test_patients_are_those_of_the_images(
    database: Database, tmp_path: Path, identity: dict[str, str], reason: str | None
) -> None:
    first = {IDENTITY_KEY: {"patient": "ID", "study": STUDY, "issuer": "A"}}
    classify(database, "a", attributes=first)
    refuse(database, "b", "modality", attributes={IDENTITY_KEY: {"study": STUDY} | identity})
    runner(database, tmp_path).run_next(SERVED)
    assert rows(database)[0].reason == reason


@pytest.mark.parametrize("reason", ["mixed-patients", "mixed-studies"])
def test_a_series_that_was_refused_for_its_identity_refuses_the_study(
    database: Database, tmp_path: Path, reason: str
) -> None:
    classify(database, "a")
    refuse(database, "b", reason)
    runner(database, tmp_path).run_next(SERVED)
    assert (rows(database)[0].status, rows(database)[0].reason) == ("not-assessed", reason)


def test_a_study_that_no_model_saw_is_shown_with_its_reason(database: Database, tmp_path: Path) -> None:
    refuse(database, "a", "mixed-patients")
    runner(database, tmp_path).run_next(SERVED)
    with database.read() as session:
        shown = find_study(session, STUDY)
    assert shown is not None
    assert (shown.state, shown.status, shown.reason) == ("answered", None, "mixed-patients")
    assert rows(database) == []


def test_a_corrected_patient_is_no_second_one(database: Database, tmp_path: Path) -> None:
    """All images of a series were sent again under another Patient ID, and another Series Instance UID."""
    series_id = classify(database, "wrong")
    with database.write() as session:
        [row] = instances_of(session, series_id)
        right = new_instance(
            1, "right", sop_instance_uid=row.sop_instance_uid, study_instance_uid=STUDY, patient_id="RIGHT"
        )
        correct_instances(session, [(row, right)], later(20))
        old, new = session.scalars(select(SeriesRow).order_by(SeriesRow.id))
        refuse_series(old, "moved", "all of its images were corrected to other series", later(21))
        refuse_series(new, "modality", "no MR", later(21))
    assert runner(database, tmp_path, 60).run_next(SERVED)
    with database.read() as session:
        shown = find_study(session, STUDY)
    assert shown is not None
    assert (shown.patient_id, shown.reason) == ("RIGHT", "no-series-assessed")


def test_what_another_model_said_is_listed_and_does_not_count(database: Database, tmp_path: Path) -> None:
    for name in "abc":
        classify(database, name, 0.9 if name != "c" else 0.1)
    with database.write() as session:
        other = ModelRow(name="o", version="1", sha256="9" * 64, added_at=later(0), state_at=later(0), state_by="x")
        session.add(other)
        session.flush()
        session.execute(update(ResultRow).where(ResultRow.series_id == 3).values(model_id=other.id))
    runner(database, tmp_path).run_next(SERVED)
    [row] = rows(database)
    assert (row.label, row.contradiction) == ("glioma", None)
    assert [item["answer"]["reason"] for item in row.contributions].count("another-model") == 1


class Died(BaseException):
    """What ends a process: nothing catches it."""


@pytest.mark.parametrize("step", ["claim_study", "study_inputs", "answer_study", "add_study_result"])
@pytest.mark.parametrize("after", [False, True])
def test_a_process_that_dies_at_any_step_loses_and_doubles_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    classify(database, "a")
    real: Callable[..., Any] = getattr(studies, step)

    def dies(*arguments: Any) -> Any:
        if after:
            real(*arguments)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(studies, step, dies)
        with pytest.raises(Died):
            runner(database, tmp_path).run_next(SERVED)
    assert rows(database) == [], "the transaction was not committed"
    with database.write() as session:
        release_leases_of(session, "host:1", later(10))
    assert runner(database, tmp_path, 11, "host:2").run_next(SERVED)
    assert not runner(database, tmp_path, 60, "host:2").run_next(SERVED)
    assert [row.number for row in rows(database)] == [1]


def before_the_next_answer(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
    """Have something happen between the claim of a study and its answer, once."""
    real = studies.answer_study

    def answer(*arguments: Any) -> Any:
        monkeypatch.setattr(studies, "answer_study", real)
        happens()
        return real(*arguments)

    monkeypatch.setattr(studies, "answer_study", answer)


def test_a_series_that_arrives_and_is_answered_while_its_study_is(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify(database, "a")
    before_the_next_answer(monkeypatch, lambda: classify(database, "late", seconds=10))
    assert runner(database, tmp_path).run_next(SERVED)
    assert rows(database) == []
    assert runner(database, tmp_path, 20).run_next(SERVED)
    assert [len(row.contributions) for row in rows(database)] == [2]


def test_two_hosts_that_answer_the_same_study_add_one_answer(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify(database, "a")

    def another() -> None:
        assert runner(database, tmp_path, 50, "another:1").run_next(SERVED), "the lease is over"

    before_the_next_answer(monkeypatch, another)
    assert runner(database, tmp_path).run_next(SERVED)
    assert [row.number for row in rows(database)] == [1]


def test_a_study_that_cannot_be_answered_is_parked_after_its_attempts(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify(database, "a")

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(studies, "answer_study", fails)
    for attempt in range(3):
        assert runner(database, tmp_path, 10 + 100 * attempt).run_next(SERVED)
    assert not runner(database, tmp_path, 999).run_next(SERVED)
    assert (study(database).state, study(database).reason) == ("parked", "fusion-fault")


def test_a_study_whose_processes_die_again_and_again_is_parked(database: Database, tmp_path: Path) -> None:
    classify(database, "a")
    with database.write() as session:
        session.execute(update(StudyRow).values(attempts=3))
    assert runner(database, tmp_path).run_next(SERVED)
    assert (study(database).state, study(database).reason) == ("parked", "process-died")


def test_a_study_waits_for_a_process_that_serves_its_model(database: Database, tmp_path: Path) -> None:
    classify(database, "a")
    assert runner(database, tmp_path).run_next({2: SERVED[1]})
    assert study(database).reason == "model-not-served"
    assert runner(database, tmp_path, 60).run_next(SERVED)
    assert rows(database)[0].label == "glioma"


def test_weights_are_those_of_the_model(database: Database, tmp_path: Path) -> None:
    classify(database, "a", 0.95)
    classify(database, "b", 0.2)
    with database.write() as session:
        for series, sequence in ((1, "T1C"), (2, "T2")):
            basis = {"sequence": sequence, "plane": "axial", "lesion_probability": 0.95 if series == 1 else 0.2}
            session.execute(update(ResultRow).where(ResultRow.series_id == series).values(basis=basis))
    heavy = replace(SERVED[1], study=replace(SERVED[1].study, weights={"T1C": 9.0, "T2": 1.0}, lesion_from=0.85))
    runner(database, tmp_path).run_next({1: heavy})
    [row] = rows(database)
    assert row.label == "glioma"
    assert sorted(round(item["weight"], 3) for item in row.contributions) == [0.1, 0.9]


@pytest.mark.parametrize(("number", "expected"), [(7, 7), (None, None)])
def test_number_and_description_of_a_series_are_read_from_a_file(
    tmp_path: Path, number: int | None, expected: int | None
) -> None:
    ds = mr_instance(1, "a", SeriesNumber=number, SeriesDescription="AX T1")
    (tmp_path / "a.dcm").write_bytes(encoded(ds))
    assert read_series_name(tmp_path / "a.dcm") == (expected, "AX T1")
    (tmp_path / "b.dcm").write_bytes(b"x")
    assert read_series_name(tmp_path / "b.dcm") == (None, "")
    assert read_series_name(tmp_path / "gone.dcm") == (None, "")


def test_the_study_is_that_of_its_series(database: Database, tmp_path: Path) -> None:
    classify(database, "a")
    runner(database, tmp_path).run_next(SERVED)
    assert study(database).study_instance_uid == STUDY
