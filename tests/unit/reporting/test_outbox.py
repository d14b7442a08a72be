from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from pydicom import dcmread
from pydicom.uid import KeyObjectSelectionDocumentStorage

from tests.testbed import results
from tests.testbed.instances import MODEL, NOON, classified, new_instance, write_series
from worker.config.sections import Level
from worker.db.results import Lineage, NewObject
from worker.db.studies.answering import StudyLineage
from worker.db.tables import ObjectKind
from worker.errors import NotAssessable
from worker.inference.illustrated import not_assessed
from worker.reporting.outbox import REASONS_OF_THE_SERIES, Outbox
from worker.results import ResultStatus


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "source", 3)


def _make(folder: Path, sources: list[Path], digest: str = "d1", predecessor: str | None = None) -> list[NewObject]:
    result = classified([new_instance(number) for number in (3, 2, 1)])
    return Outbox(folder).make_objects(
        result, MODEL, sources, digest, Lineage((predecessor,) if predecessor else ()), NOON
    )


def test_a_second_attempt_writes_the_same_bytes_under_the_same_uids(tmp_path: Path, sources: list[Path]) -> None:
    assert _make(tmp_path / "a", sources) == _make(tmp_path / "b", sources)
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").rglob("*.dcm")}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "b").rglob("*.dcm")}


def test_other_bytes_under_the_same_uids_change_no_file_that_is_there(tmp_path: Path, sources: list[Path]) -> None:
    first = _make(tmp_path, sources)
    before = {one.path: (tmp_path / one.path).read_bytes() for one in first}
    result = classified([new_instance(number) for number in (3, 2, 1)], probability=0.91)  # another processor rounds so
    second = Outbox(tmp_path).make_objects(result, MODEL, sources, "d1", Lineage(), NOON)
    assert [one.sop_instance_uid for one in first] == [one.sop_instance_uid for one in second]
    assert before == {path: (tmp_path / path).read_bytes() for path in before}


def test_pictures_go_where_they_are_taken_and_reports_everywhere(tmp_path: Path, sources: list[Path]) -> None:
    result = classified([new_instance(number) for number in (3, 2, 1)])
    made = Outbox(tmp_path, pictures_to=("pacs",)).make_objects(result, MODEL, sources, "d1", Lineage(), NOON)
    assert {one.kind: one.only_to for one in made} == {ObjectKind.REPORT: None, ObjectKind.PICTURE: ("pacs",)}


def test_the_newest_image_names_the_patient(tmp_path: Path) -> None:
    sources = write_series(tmp_path / "source", 2)
    sources += write_series(
        tmp_path / "new", 3, PatientName="Müller^Eva", PatientSex=None, SpecificCharacterSet="ISO_IR 100"
    )[2:]
    for made in _make(tmp_path, sources):
        ds = dcmread(tmp_path / made.path)
        assert (ds.PatientName, ds.PatientSex, ds.PatientID) == ("Müller^Eva", "", "ID-a")


def test_another_input_set_makes_other_objects_in_the_same_series(tmp_path: Path, sources: list[Path]) -> None:
    one, two = _make(tmp_path, sources), _make(tmp_path, sources, "d2")
    assert {each.sop_instance_uid for each in one}.isdisjoint(each.sop_instance_uid for each in two)
    reports = [dcmread(tmp_path / each[0].path) for each in (one, two)]
    assert reports[0].SeriesInstanceUID == reports[1].SeriesInstanceUID


def test_a_later_report_names_the_one_it_replaces(tmp_path: Path, sources: list[Path]) -> None:
    before = _make(tmp_path, sources)[0]
    after = dcmread(tmp_path / _make(tmp_path, sources, "d2", before.path)[0].path)
    [study] = after.PredecessorDocumentsSequence
    [series] = study.ReferencedSeriesSequence
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == [before.sop_instance_uid]


def test_report_and_picture_are_in_the_source_study_and_in_series_of_their_own(
    tmp_path: Path, sources: list[Path]
) -> None:
    made = {one.kind: dcmread(tmp_path / one.path) for one in _make(tmp_path, sources)}
    source = dcmread(sources[0])
    assert {ds.StudyInstanceUID for ds in made.values()} == {source.StudyInstanceUID}
    assert len({ds.SeriesInstanceUID for ds in (*made.values(), source)}) == 3
    assert set(made) == {ObjectKind.REPORT, ObjectKind.PICTURE}


def test_no_half_written_file_is_left(tmp_path: Path, sources: list[Path]) -> None:
    _make(tmp_path / "out", sources)
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".dcm"}


def test_key_objects_are_made_where_somebody_wants_them_and_slices_decided(tmp_path: Path, sources: list[Path]) -> None:
    result = classified([new_instance(number) for number in (3, 2, 1)])
    undecided = replace(result, slices=tuple(replace(one, deciding=False) for one in result.slices))
    refused = replace(result, status=ResultStatus.NOT_ASSESSED, label=None, probability=None, reason="x", detail="x")
    outbox = Outbox(tmp_path, key_objects_to=("pacs",))
    report, picture, selection = outbox.make_objects(result, MODEL, sources, "d1", Lineage(), NOON)
    assert (report.only_to, picture.only_to, selection.only_to) == (None, None, ("pacs",))
    ds = dcmread(tmp_path / selection.path)
    assert (ds.SOPClassUID, ds.SOPInstanceUID) == (KeyObjectSelectionDocumentStorage, selection.sop_instance_uid)
    assert outbox.make_objects(result, MODEL, sources, "d1", Lineage(), NOON)[2] == selection
    for other in (undecided, refused):
        assert len(outbox.make_objects(other, MODEL, sources, "d1", Lineage(), NOON)) == 2


@pytest.mark.parametrize("reason", ["not-a-brain", "sequence-not-supported", "sequence-contradiction"])
def test_what_another_model_would_not_answer_either_is_a_reason_of_the_series(
    tmp_path: Path, sources: list[Path], reason: str
) -> None:
    result = not_assessed(NotAssessable(reason, "A sentence."))
    assert Outbox(tmp_path, not_assessed=False).make_objects(result, MODEL, sources, "d1", Lineage(), NOON) == []
    assert len(Outbox(tmp_path).make_objects(result, MODEL, sources, "d1", Lineage(), NOON)) == 2


def test_every_reason_of_a_series_is_explained() -> None:
    explained = (
        (Path(__file__).parents[3] / "docs/operating.md").read_text().split("## Why a series is not assessed")[1]
    )
    assert [reason for reason in REASONS_OF_THE_SERIES if f"`{reason}`" not in explained.split("\n## ")[0]] == []


def test_a_series_that_is_not_assessed_for_a_reason_of_its_own_is_reported_only_where_asked_or_to_replace(
    tmp_path: Path, sources: list[Path]
) -> None:
    quiet = Outbox(tmp_path, not_assessed=False)
    of_the_series = not_assessed(NotAssessable("duplicate-positions", "Several images show the same position."))
    of_the_model = not_assessed(NotAssessable("out-of-distribution", "Unlike the training data."))
    assert quiet.make_objects(of_the_series, MODEL, sources, "d1", Lineage(), NOON) == []
    assert Outbox(tmp_path).make_objects(of_the_series, MODEL, sources, "d1", Lineage(), NOON)
    assert quiet.make_objects(of_the_model, MODEL, sources, "d1", Lineage(), NOON)
    before = _make(tmp_path, sources)[0]
    assert quiet.make_objects(of_the_series, MODEL, sources, "d2", Lineage((before.path,)), NOON)


def test_nothing_is_made_of_a_series_where_studies_are_reported(tmp_path: Path, sources: list[Path]) -> None:
    result = classified([new_instance(number) for number in (3, 2, 1)])
    made = {
        level: len(Outbox(tmp_path, level=level).make_objects(result, MODEL, sources, "d1", Lineage(), NOON))
        for level in get_args(Level)
    }
    assert made == {"study": 0, "series": 2, "both": 2}


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [("one series", "study", True), ("one series", "series", False), ("series disagree", "both", True)],
)
def test_whether_a_study_is_reported(tmp_path: Path, name: str, level: Level, expected: bool) -> None:
    outbox = Outbox(tmp_path, level=level, not_assessed=False)
    assert outbox.reports_study(results.STUDIES[name], StudyLineage(1, ())) == expected
