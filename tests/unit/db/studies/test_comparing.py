"""The studies of a month by their last answer of it; what two models said: tests/unit/ops/test_compare_studies.py."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select

from tests.testbed.instances import MODEL, later
from tests.testbed.studies import classify
from worker.db.engine import Database
from worker.db.studies.answering import add_study_result, study_inputs
from worker.db.studies.comparing import StudiesMonth, studies_answered
from worker.db.studies.opening import open_studies
from worker.db.tables import StudyRow
from worker.inference.study.fusion import EQUAL_WEIGHTS, fuse
from worker.results import SeriesAnswer, StudyResult

GLIOMA = SeriesAnswer("1.2", 1, "T1", "axial", "glioma", None, 0.8, {"glioma": 0.8, "notumor": 0.2})
NONE = replace(
    GLIOMA, series="1.3", label="notumor", lesion_probability=0.2, probabilities={"glioma": 0.2, "notumor": 0.8}
)


def answer(database: Database, name: str, study: str, result: StudyResult, seconds: float, number: int = 1) -> None:
    classify(database, name, seconds=seconds, study_instance_uid=study, number=number)
    with database.write() as session:
        open_studies(session, [study])
        row = session.scalars(select(StudyRow).where(StudyRow.study_instance_uid == study)).one()
        inputs = study_inputs(session, study)
        assert add_study_result(session, row.id, inputs, 1, result, later(seconds)) is not None


def test_the_last_answers_of_a_month(database: Database) -> None:
    one, both = fuse([GLIOMA], MODEL, EQUAL_WEIGHTS), fuse([GLIOMA, NONE], MODEL, EQUAL_WEIGHTS)
    answer(database, "a", "1.2.1", one, 1)
    answer(database, "b", "1.2.2", one, 2)
    answer(database, "c", "1.2.2", both, 3)
    answer(database, "d", "1.2.3", one, 500)
    with database.read() as session:
        assert studies_answered(session, later(0), later(100)) == StudiesMonth(
            2, {"glioma": 1}, {"series-disagree": 1}, revised=1, contradicted=1
        )
        assert studies_answered(session, later(0), later(3)).labels == {"glioma": 2}
        assert studies_answered(session, later(900), later(999)) == StudiesMonth(0, {}, {}, 0, 0)
