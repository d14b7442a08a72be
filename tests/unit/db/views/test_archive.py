"""What a reader's query finds, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from sqlalchemy import text, update

from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.migrate import migrate
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import Base, JobState, ObjectKind, SeriesRow
from worker.db.views.archive import match_instances, match_series, match_studies
from worker.db.views.archive_matching import Keys, split_keys
from worker.dicom.matching import keys_of_parameters, matches
from worker.dicom.standard import derive_uid, produced_series_uid

SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Study a with two series, the first with a report; study b with a single series."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('archive') / 'worker.db'}")
        migrate(database)
    else:
        database = Database(request.getfixturevalue("postgres_url"))
        migrate(database)
        with database.engine.begin() as connection:
            names = ", ".join(f'"{table.name}"' for table in Base.metadata.sorted_tables)
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
    _fill(database)
    yield database
    database.close()


def _fill(database: Database) -> None:
    with database.write() as session:
        model = model_row(session, MODEL, later(0)).id
        second = {"series_instance_uid": derive_uid("series", "a2"), "modality": "CT"}
        for new in (
            new_instance(1, "a", patient_name="Müller_x^Ada=山田", study_date="20260301"),
            new_instance(2, "a"),
            replace(new_instance(3, "a"), **second),
            new_instance(1, "b", patient_id="ID_b%", study_date="20250101", patient_name="Bo[b]"),
        ):
            row = add_instance(session, new, later(0))
            if new.sop_instance_uid == derive_uid("instance", "a", "2"):
                first = row
        series = lock_open_series(session, first.series_id, later(0))
        assert series is not None
        queue_series(session, series, model, later(0))
        job = claim_job(session, "me", model, later(0), timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, later(5))
        made = NewObject(ObjectKind.REPORT, SR, derive_uid("r"), "objects/r", "00" * 32)
        new = new_instance(2, "a")
        add_result(session, job, classified([new]), {new.sop_instance_uid: first.id}, [made], [], later(5))


_B = derive_uid("study", "b")
REPORTS = produced_series_uid("report", derive_uid("series", "a"), MODEL.sha256)


def _studies(database: Database, **keys: object) -> list[str]:
    with database.read() as session:
        studies = match_studies(session, replace(Keys(), **keys))  # type: ignore[arg-type]
    names = {derive_uid("study", name): name for name in "ab"}
    return [names[study.study_instance_uid] for study in studies]


def test_a_study_is_listed_once_newest_first_with_what_it_holds(database: Database) -> None:
    with database.read() as session:
        b, a = match_studies(session, Keys())
    assert (b.study_instance_uid, a.study_instance_uid) == (derive_uid("study", "b"), derive_uid("study", "a"))
    assert (a.modalities, a.series, a.instances) == (("CT", "MR", "SR"), 3, 4)
    assert a.path == new_instance(1, "a").path


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"patient_names": ("müller_X^*",)}, "a"),
        ({"patient_names": ("MÜLLER_x^ada",)}, "a"),
        ({"patient_names": ("山田",)}, "a"),
        ({"patient_names": ("müller_x^ada=山?",)}, "a"),
        ({"patient_names": ("nobody", "bo[[]b]", "bo[b]^^")}, "b"),
        ({"patient_names": ("*a" * 200 + "b",)}, ""),
        ({"patient_names": ("a\0*",)}, ""),
        ({"patient_names": ("m?ller?x^ada",)}, "a"),
        ({"patient_names": ("Mxller*",)}, ""),
        ({"patient_names": ("*",)}, "ba"),
        ({"patient_names": ("bo[b]",)}, "b"),
        ({"patient_names": ("bo[b]*",)}, "b"),
        ({"patient_ids": ("ID_b%",)}, "b"),
        ({"patient_ids": ("ID_*",)}, "b"),
        ({"patient_ids": ("id-*",)}, ""),
        ({"patient_ids": ("ID-?",)}, "a"),
        ({"study_dates": ("20260301",)}, "a"),
        ({"study_dates": ("20250101-20250101",)}, "b"),
        ({"study_dates": ("-20251231",)}, "b"),
        ({"study_dates": ("20250102-",)}, "a"),
        ({"modalities_in_study": ("SR",)}, "a"),
        ({"modalities_in_study": ("MR", "XX")}, "ba"),
        ({"modalities_in_study": ("KO",)}, ""),
        ({"modalities_in_study": ("S?",)}, "a"),
        ({"modalities_in_study": ("M*", "XX")}, "ba"),
        ({"patient_ids": ("nobody", "ID_b%")}, "b"),
        ({"patient_ids": ("?" * 60_000 + "*",)}, ""),
        ({"patient_ids": ("\0",)}, ""),
        ({"study_dates": ("2026-2026",)}, "a"),
        ({"study_dates": ("20250101", "20260301")}, "ba"),
        ({"study_dates": ("2026*",)}, ""),
        ({"study_dates": ("\0-",)}, ""),
        ({"study_instance_uids": ("\0",)}, ""),
        ({"study_instance_uids": (derive_uid("study", "b"), "1.2")}, "b"),
    ],
)
def test_studies_match_as_the_standard_says(database: Database, keys: dict[str, object], expected: str) -> None:
    assert "".join(_studies(database, **keys)) == expected


_CHARACTERS = "aAbÄä山^= *?[]%_-01"
_FIELDS = {"PatientName": "patient_names", "PatientID": "patient_ids", "StudyDate": "study_dates"}


@given(
    values=st.fixed_dictionaries({name: st.text(_CHARACTERS, max_size=5).map(str.strip) for name in _FIELDS.values()}),
    keyword=st.sampled_from(sorted(_FIELDS)),
    key=st.text(_CHARACTERS + "\\", max_size=5),
)
@example({"patient_names": "A^=Ä", "patient_ids": "", "study_dates": ""}, "PatientName", "ä")
@example({"patient_names": "ab=ba", "patient_ids": "", "study_dates": ""}, "PatientName", "a*a")
@settings(max_examples=300)
def test_the_database_matches_as_the_matcher_does(
    database: Database, values: dict[str, str], keyword: str, key: str
) -> None:
    keys = keys_of_parameters([([Tag(keyword)], key)])
    ds = Dataset()
    for name, field in _FIELDS.items():
        ds.add(DataElement(name, dictionary_VR(name), values[field], validation_mode=IGNORE))
    in_database, others = split_keys(keys)
    assert others == ()
    with database.write() as session:
        for field, text in values.items():
            column = getattr(SeriesRow, field.removesuffix("s"))
            session.execute(update(SeriesRow).where(SeriesRow.study_instance_uid == _B).values({column: text}))
        found = match_studies(session, in_database)
        session.rollback()
    assert (_B in [study.study_instance_uid for study in found]) is matches(keys, ds)


def test_series_are_those_received_and_those_produced(database: Database) -> None:
    study = (derive_uid("study", "a"),)
    with database.read() as session:
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


def test_instances_by_class_and_series(database: Database) -> None:
    with database.read() as session:
        reports = match_instances(session, Keys(sop_class_uids=(SR,)))
        images = match_instances(session, Keys(series_instance_uids=(derive_uid("series", "a"),)))
    assert [(report.sop_instance_uid, report.series_instance_uid, report.modality) for report in reports] == [
        (derive_uid("r"), REPORTS, "SR")
    ]
    assert [image.sop_instance_uid for image in images] == [
        derive_uid("instance", "a", str(number)) for number in (1, 2)
    ]


def test_pages_put_together_are_the_whole_list(database: Database) -> None:
    with database.read() as session:
        for find in (match_studies, match_series, match_instances):
            whole = find(session, Keys())
            assert [find(session, Keys(), 1, offset)[0] for offset in range(len(whole))] == whole  # type: ignore[comparison-overlap]
            assert find(session, Keys(), 2, len(whole)) == []
            assert find(session, Keys(), 3, 1) == whole[1:4]


def test_a_patient_is_found_by_identifier_and_by_pseudonym_where_pseudonyms_are_kept(database: Database) -> None:
    with database.read() as session:
        session.info["pseudonym"] = lambda text: {"Miller": "ID-a"}.get(text, "nobody")
        assert len(match_studies(session, Keys(patient_ids=("Miller",)))) == 1
        assert len(match_studies(session, Keys(patient_ids=("ID-a",)))) == 1
