"""Studies for people, on both databases."""

from __future__ import annotations

from pathlib import Path

from tests.testbed.instances import later
from tests.testbed.rows import add_series
from tests.testbed.studies import STUDY, classify, receive, refuse, report_study
from tests.unit.jobs.test_studies import SERVED, runner
from worker.db.engine import Database
from worker.db.tables import SeriesStatus
from worker.db.views.archive import match_instances, match_series, match_studies
from worker.db.views.archive_matching import Keys
from worker.db.views.queue import unfinished_deliveries
from worker.db.views.studies import StudyDocuments, find_studies, find_study, find_study_documents
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


def test_a_study_has_documents_deliveries_and_a_place_in_the_archive(database: Database) -> None:
    classify(database, "a")
    classify(database, "b")
    report_study(database)
    with database.read() as session:
        found = find_study(session, STUDY)
        assert find_study_documents(session, STUDY) == StudyDocuments("objects/s", None, "1.2")
        assert find_study_documents(session, "1.2.3") is None
        [waiting] = unfinished_deliveries(session)
        [study] = match_studies(session, Keys(modalities_in_study=("SR",)))
        [report] = match_series(session, Keys(modalities=("SR",)))
        instances = match_instances(session, Keys(study_instance_uids=(STUDY,)))
    assert found is not None
    assert [(item.object, item.destination, item.state) for item in found.deliveries] == [("report", "pacs", "pending")]
    assert (waiting.study_instance_uid, waiting.series_instance_uid, waiting.object) == (STUDY, None, "report")
    assert (study.modalities, study.series, study.instances) == (("MR", "SR"), 3, 3)
    assert (report.study.study_instance_uid, report.path) == (STUDY, "objects/s")
    assert [item.modality for item in instances] == ["MR", "MR", "SR"]
