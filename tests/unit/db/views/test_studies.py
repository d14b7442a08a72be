"""Studies for people, on both databases."""

from __future__ import annotations

from pathlib import Path

from tests.testbed.instances import later
from tests.testbed.rows import add_series
from tests.testbed.studies import STUDY, classify, receive, refuse
from tests.unit.jobs.test_studies import SERVED, runner
from worker.db.engine import Database
from worker.db.tables import SeriesStatus
from worker.db.views.studies import find_studies, find_study
from worker.dicom.standard import derive_uid


def test_a_study_shows_its_answer_and_what_each_series_said(database: Database, tmp_path: Path) -> None:
    classify(database, "a", 0.9)
    refuse(database, "knee", "body-part")
    runner(database, tmp_path).run_next(SERVED)
    receive(database, "late", seconds=90)
    with database.read() as session:
        found = find_study(session, STUDY)
        assert find_study(session, "1.2.3") is None
    assert found is not None
    assert (found.state, found.status, found.label, found.revision) == ("answered", "classified", "glioma", 1)
    assert (found.patient_id, found.accession_number, found.study_date) == ("ID", "A", "20260301")
    assert (found.model, found.model_version, found.answered_at) == ("test-model", "1.0", later(10))
    head, knee, late = found.series
    assert (head.label, head.weight, head.deciding, head.reason) == ("glioma", 1.0, True, None)
    assert (knee.status, knee.reason, knee.weight, knee.deciding) == ("refused", "body-part", 0.0, False)
    assert (late.status, late.weight) == ("pending", None)


def test_studies_are_listed_newest_first_page_by_page(database: Database) -> None:
    for number, name in enumerate("abc"):
        add_series(database, name, SeriesStatus.REFUSED if name == "b" else SeriesStatus.CLASSIFIED, 60 * number)
    with database.read() as session:
        first = find_studies(session, limit=2)
        second = find_studies(session, first.older_than, limit=2)
    uids = [derive_uid("study", name) for name in "cba"]
    assert [study.study_instance_uid for study in (*first.studies, *second.studies)] == uids
    assert second.older_than is None
    assert [(study.state, study.label) for study in first.studies] == [("open", None), ("open", None)]
