"""Two models on studies, by what they said of the series that both processed; on both databases."""

from __future__ import annotations

from dataclasses import replace

from tests.testbed.instances import MODEL, classified, later
from tests.testbed.studies import classify
from worker.db.engine import Database
from worker.db.models import model_row
from worker.db.results import add_shadow_result
from worker.db.series import queue_series
from worker.db.studies.readings import NewStudyReading, add_study_reading, study_to_read
from worker.db.tables import SeriesRow
from worker.db.views.model_comparison import AgainstReaders, Comparison, ConfusionCell
from worker.inference.study.fusion import EQUAL_WEIGHTS
from worker.ops.compare_studies import ComparedModel, compare_studies
from worker.results import AnswerBasis

SECOND = replace(MODEL, version="2", sha256="cd" * 32)


def add(database: Database, name: str, first: float, second: float, **changes: str) -> None:
    """A series, with P(glioma) by the test model and by another in shadow."""
    series_id = classify(database, name, first, **changes)
    with database.write() as session:
        series = session.get_one(SeriesRow, series_id)
        job = queue_series(session, series, model_row(session, SECOND, later(0)).id, later(1), shadow=True)
        assert job is not None
        result = classified(probability=second)
        label = "glioma" if second >= 0.5 else "notumor"
        basis = AnswerBasis("T1", "header", "axial", False, 3, 3, second)
        add_shadow_result(session, job, replace(result, label=label, basis=basis), later(2))


def compared(database: Database) -> Comparison:
    with database.read() as session:
        first, second = (ComparedModel(row, model, EQUAL_WEIGHTS) for row, model in ((1, MODEL), (2, SECOND)))
        return compare_studies(session, first, second)


def test_studies_are_compared_by_the_series_of_both(database: Database) -> None:
    add(database, "a", 0.9, 0.9)
    add(database, "b", 0.8, 0.2)  # the second model contradicts itself
    add(database, "c", 0.9, 0.95, study_instance_uid="1.2.1")
    add(database, "d", 0.9, 0.1, study_instance_uid="1.2.2")
    classify(database, "e", 0.9, study_instance_uid="1.2.3")  # the second model did not see it
    comparison = compared(database)
    assert (comparison.n, comparison.classified_by_both, comparison.agree, comparison.agreement) == (3, 2, 1, 0.5)
    assert (comparison.first_not_assessed, comparison.second_not_assessed) == (0, 1)
    assert comparison.confusion == (
        ConfusionCell("glioma", "glioma", 1),
        ConfusionCell("glioma", "not-assessed", 1),
        ConfusionCell("glioma", "notumor", 1),
    )


def test_each_study_counts_once_against_its_latest_reading(database: Database) -> None:
    add(database, "a", 0.9, 0.2, study_instance_uid="1.2.1")
    add(database, "b", 0.9, 0.2, study_instance_uid="1.2.1")
    add(database, "c", 0.9, 0.9, study_instance_uid="1.2.2")
    add(database, "d", 0.9, 0.1, study_instance_uid="1.2.3")  # unread
    add(database, "e", 0.9, 0.9, study_instance_uid="1.2.4")
    readings = (("1.2.1", "glioma", 0), ("1.2.1", "notumor", 1), ("1.2.2", "glioma", 0), ("1.2.4", "not-assessable", 0))
    with database.write() as session:
        for uid, label, after in readings:
            study = study_to_read(session, uid)
            assert study is not None
            add_study_reading(session, study, NewStudyReading(label, "ada", "", None, after), later(60 + after))
    comparison = compared(database)
    assert (comparison.n, comparison.read) == (4, 2)
    assert comparison.first_against_readers == AgainstReaders(right=1, wrong=1, not_assessed=0)
    assert comparison.second_against_readers == AgainstReaders(right=2, wrong=0, not_assessed=0)


def test_without_a_common_series_there_is_nothing_to_compare(database: Database) -> None:
    classify(database, "a", 0.9)
    with database.write() as session:
        model_row(session, SECOND, later(0))
    assert (compared(database).n, compared(database).agreement) == (0, None)
