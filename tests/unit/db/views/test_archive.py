"""What the archive lists of a study, a series and an instance, on both databases."""

from __future__ import annotations

from tests.testbed.instances import MODEL, new_instance
from worker.db.engine import Database
from worker.db.tables import ObjectKind
from worker.db.views.archive import match_instances, match_series, match_studies
from worker.db.views.archive_matching import Keys
from worker.dicom.standard import derive_uid, produced_series_uid

SR = "1.2.840.10008.5.1.4.1.1.88.34"
REPORTS = produced_series_uid("report", derive_uid("series", "a"), MODEL.sha256)


def test_a_study_is_listed_once_newest_first_with_what_it_holds(archive: Database) -> None:
    with archive.read() as session:
        b, a = match_studies(session, Keys())
    assert (b.study_instance_uid, a.study_instance_uid) == (derive_uid("study", "b"), derive_uid("study", "a"))
    assert (a.modalities, a.series, a.instances) == (("CT", "MR", "SR"), 3, 4)
    assert a.path == new_instance(1, "a").path


def test_series_are_those_received_and_those_produced(archive: Database) -> None:
    study = (derive_uid("study", "a"),)
    with archive.read() as session:
        in_study = match_series(session, Keys(study_instance_uids=study))
        reports = match_series(session, Keys(modalities=("SR",)))
        by_uid = match_series(session, Keys(series_instance_uids=(REPORTS,)))
    assert sorted((series.modality, series.instances, series.kind) for series in in_study) == [
        ("CT", 1, None),
        ("MR", 2, None),
        ("SR", 1, ObjectKind.REPORT),
    ]
    assert reports == by_uid
    assert [(series.series_instance_uid, series.path) for series in reports] == [(REPORTS, "objects/r")]


def test_instances_by_class_and_series(archive: Database) -> None:
    with archive.read() as session:
        reports = match_instances(session, Keys(sop_class_uids=(SR,)))
        images = match_instances(session, Keys(series_instance_uids=(derive_uid("series", "a"),)))
    assert [(report.sop_instance_uid, report.series_instance_uid, report.modality) for report in reports] == [
        (derive_uid("r"), REPORTS, "SR")
    ]
    assert [image.sop_instance_uid for image in images] == [
        derive_uid("instance", "a", str(number)) for number in (1, 2)
    ]


def test_a_modality_in_the_study_selects_all_of_it_on_every_level(archive: Database) -> None:
    study = Keys(study_instance_uids=(derive_uid("study", "a"),))
    with archive.read() as session:
        for find in (match_studies, match_series, match_instances):
            assert find(session, Keys(modalities_in_study=("SR",))) == find(session, study)
            assert find(session, Keys(modalities_in_study=("XX", "*Y"))) == []


def test_pages_put_together_are_the_whole_list(archive: Database) -> None:
    with archive.read() as session:
        for find in (match_studies, match_series, match_instances):
            whole = find(session, Keys())
            assert [find(session, Keys(), 1, offset)[0] for offset in range(len(whole))] == whole  # type: ignore[comparison-overlap]
            assert find(session, Keys(), 2, len(whole)) == []
            assert find(session, Keys(), 3, 1) == whole[1:4]
