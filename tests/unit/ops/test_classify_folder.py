"""A folder of files becomes series, and each series an answer and its objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, RTDoseStorage

from tests.testbed.instances import MODEL, NOON, classified, write_series
from worker.config.sections import EligibilitySection
from worker.config.settings import Settings
from worker.db.tables import SeriesStatus
from worker.errors import NotAssessable, StartError
from worker.inference.illustrated import IllustratedResult
from worker.jobs.bundle_store import ServedModel
from worker.ops.classify_folder import classify_series, fuse_studies, read_folder


def test_files_are_grouped_by_series_and_the_others_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "deep" / "a", 2, "a")
    [second] = write_series(tmp_path / "b", 1, "b")
    (tmp_path / "copy.dcm").write_bytes(second.read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "short.dcm").write_bytes(second.read_bytes()[:140])
    write_series(tmp_path / "dose", 1, "c", SOPClassUID=RTDoseStorage)
    series, unread = read_folder(tmp_path)
    assert sorted(len(members) for members in series.values()) == [1, 2]
    reasons = {fault.path.name: fault.reason for fault in unread}
    assert reasons == {"c-001.dcm": "sop-class", "copy.dcm": "repeated", "notes.txt": "not-dicom"} | {
        "short.dcm": reasons["short.dcm"]
    }
    assert len(read_folder(second)[0]) == 1
    with pytest.raises(StartError, match="does not exist"):
        read_folder(tmp_path / "nowhere")


def _model(*results: IllustratedResult | NotAssessable) -> ServedModel:
    given = list(results)

    def classify(_paths: object, _kinds: object) -> IllustratedResult:
        result = given.pop(0)
        if isinstance(result, NotAssessable):
            raise result
        return result

    return ServedModel(MODEL, classify)


def test_an_answer_has_its_report_picture_and_png(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 3)
    [members] = read_folder(tmp_path / "in")[0].values()
    result = classified([instance for _, instance in members])
    answer = classify_series(members, Settings(), _model(result), tmp_path / "out", NOON)
    assert (answer.answer.status, answer.answer.label) == (SeriesStatus.CLASSIFIED, "glioma")
    assert answer.answer.instances == 3
    assert answer.written is not None
    assert dcmread(answer.written.report).Modality == "SR"
    assert dcmread(answer.written.picture).Modality == "OT"
    assert answer.written.png.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out" / "objects").exists()


def test_what_the_model_may_not_judge_has_a_report_that_says_so(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 3)
    [members] = read_folder(tmp_path / "in")[0].values()
    fault = NotAssessable("mixed-sizes", "sizes differ")
    answer = classify_series(members, Settings(), _model(fault), tmp_path / "out", NOON)
    assert (answer.answer.status, answer.answer.reason) == (SeriesStatus.NOT_ASSESSED, "mixed-sizes")
    assert answer.written is not None
    assert answer.written.report.is_file()


def test_a_refused_series_is_neither_classified_nor_written(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 3, Modality="CT", SOPClassUID=CTImageStorage)
    write_series(tmp_path / "gap", 5, "gap")
    (tmp_path / "gap" / "gap-003.dcm").unlink()
    settings = Settings(eligibility=EligibilitySection(refuse_incomplete=True))
    for folder, reason in (("in", "modality"), ("gap", "incomplete")):
        series, unread = read_folder(tmp_path / folder)
        if unread:  # a storage class that is not accepted at all
            assert {fault.reason for fault in unread} == {"sop-class"}
            continue
        [members] = series.values()
        answer = classify_series(members, settings, _model(), tmp_path / "out", NOON)
        assert (answer.answer.status, answer.answer.reason, answer.written) == (SeriesStatus.REFUSED, reason, None)
    assert not (tmp_path / "out").exists()


def test_a_gap_is_in_the_answer_where_it_is_not_a_reason_to_refuse(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 5)
    (tmp_path / "in" / "a-003.dcm").unlink()
    [members] = read_folder(tmp_path / "in")[0].values()
    result = replace(classified([instance for _, instance in members]), missing=None)
    answer = classify_series(members, Settings(), _model(result), tmp_path / "out", NOON)
    assert answer.answer.missing


def test_the_answer_for_a_study_of_several_series(tmp_path: Path) -> None:
    for number, name in enumerate("abcd", 1):
        study = "1.2.1" if name in "ab" else f"1.2.{number}"
        write_series(tmp_path / "in", 3, name, StudyInstanceUID=study, PatientID="P", SeriesNumber=number)
    write_series(tmp_path / "in", 3, "e", StudyInstanceUID="1.2.4", PatientID="ANOTHER", Modality="CT")
    (tmp_path / "in" / "c-003.dcm").unlink()
    write_series(tmp_path / "other", 3, "c", StudyInstanceUID="1.2.9", PatientID="P", SeriesNumber=3)
    series = list(read_folder(tmp_path)[0].values())
    results = [classified([instance for _, instance in series[index]], 0.8) for index in (0, 1, 3)]
    results[1] = replace(results[1], label="notumor", probabilities={"glioma": 0.2, "notumor": 0.8})
    model = _model(*results)
    answers = [
        classify_series(members, Settings(), model, tmp_path / f"out-{number}", NOON)
        for number, members in enumerate(series)
    ]
    studies = fuse_studies(answers, model)
    assert {uid: study.reason for uid, study in studies.items()} == {
        "1.2.1": "series-disagree", "1.2.3": "mixed-studies", "1.2.9": "mixed-studies", "1.2.4": "mixed-patients",
    }  # fmt: skip
    assert studies["1.2.1"].contradiction == "series 1 (T1, axial): Glioma; series 2 (T1, axial): No tumour."
