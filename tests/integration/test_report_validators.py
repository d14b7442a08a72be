"""Report, picture and key images before judges that others wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from tests.testbed import dcmtk, results, validators
from tests.testbed.phantom import MALFORMED_PATIENT
from worker.reporting.secondary_capture import (
    build_key_object_selection,
    build_secondary_capture,
    build_study_capture,
)
from worker.reporting.sr import build_report
from worker.reporting.study_sr import build_study_report
from worker.results import ModelIdentity, SeriesResult

CLEAN = results.source_headers()
MALFORMED = results.source_headers(**MALFORMED_PATIENT)
ENHANCED = results.enhanced_header(**MALFORMED_PATIENT)
JAPANESE = results.source_headers(SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")

LESIONS = results.MODEL_OF_LESIONS
CASES: dict[str, tuple[SeriesResult, list[Dataset], bool]] = {
    "a tumour of unknown kind": (results.classified(CLEAN, "tumor", model=LESIONS), CLEAN, True),
    "another lesion, as Comprehensive SR": (results.classified(CLEAN, "other", model=LESIONS), CLEAN, False),
    "a tumour": (results.classified(CLEAN), CLEAN, True),
    "no tumour, as Comprehensive SR": (results.classified(MALFORMED, "notumor"), MALFORMED, False),
    "not assessed": (results.not_assessed(MALFORMED), MALFORMED, True),
    "Enhanced MR": (results.classified(ENHANCED, "pituitary"), ENHANCED, True),
    "a Japanese name": (results.classified(JAPANESE), JAPANESE, True),
}
QUICK_JUDGES = (validators.dciodvfy, validators.dsrdump, validators.dsr2html)
case = pytest.mark.parametrize("name", CASES)


def need(judge: validators.Judge) -> None:
    if reason := validators.missing(judge):
        pytest.skip(reason)


def saved(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def model_of(result: SeriesResult) -> ModelIdentity:
    return LESIONS if "other" in result.probabilities else results.MODEL


def report_of(name: str) -> Dataset:
    if name in results.STUDIES:
        return build_study_report(results.STUDIES[name], results.MODEL, CLEAN[0], results.STUDY_IDENTITY)
    result, sources, comprehensive_3d = CASES[name]
    return build_report(result, model_of(result), sources, comprehensive_3d=comprehensive_3d, **results.ARGUMENTS)


# DicomSRValidator's time grows with the square of the groups; the other studies have groups of every kind.
JUDGED = [
    pytest.param(name, judge, id=f"{judge.__name__}-{name}")
    for judge in validators.REPORT_JUDGES
    for name in (*CASES, *results.STUDIES)
    if (name, judge) != ("twelve series", validators.pixelmed)
]


@pytest.mark.parametrize(("name", "judge"), JUDGED)
def test_report_has_no_error(name: str, judge: validators.Judge, tmp_path: Path) -> None:
    need(judge)
    assert judge(saved(report_of(name), tmp_path / "report.dcm")) == []


@case
def test_picture_has_no_error(name: str, tmp_path: Path) -> None:
    need(validators.dciodvfy)
    result, sources, _ = CASES[name]
    picture = build_secondary_capture(result, model_of(result), sources, **results.ARGUMENTS)
    assert validators.dciodvfy(saved(picture, tmp_path / "picture.dcm")) == []


@pytest.mark.parametrize("name", results.STUDIES)
def test_picture_of_a_study_has_no_error(name: str, tmp_path: Path) -> None:
    need(validators.dciodvfy)
    study = results.STUDIES[name]
    images = results.key_images_of(study)
    picture = build_study_capture(study, results.MODEL, CLEAN[0], images, results.STUDY_IDENTITY, "NO")
    assert validators.dciodvfy(saved(picture, tmp_path / "picture.dcm")) == []


def test_a_browser_shows_the_finding_for_a_study_before_the_list_of_images(tmp_path: Path) -> None:
    need(validators.dsr2html)
    saved(report_of("no tumour"), tmp_path / "report.dcm")
    page = dcmtk.run("dsr2html", tmp_path / "report.dcm")
    assert page.index("Class: No tumour, probability 0.930.") < page.index("Image Library")


@pytest.mark.parametrize(
    ("name", "judge"),
    [(name, judge) for name in ("a tumour", "Enhanced MR") for judge in QUICK_JUDGES]
    + [("a tumour", validators.pixelmed)],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_key_images_have_no_error(name: str, judge: validators.Judge, tmp_path: Path) -> None:
    need(judge)
    result, sources, _ = CASES[name]
    selection = build_key_object_selection(result, results.MODEL, sources, **results.ARGUMENTS)
    assert judge(saved(selection, tmp_path / "key-images.dcm")) == []


@pytest.mark.parametrize("judge", validators.REPORT_JUDGES, ids=lambda judge: judge.__name__)
def test_judge_sees_a_fault(judge: validators.Judge, tmp_path: Path) -> None:
    """A judge that passes everything would prove nothing."""
    need(judge)
    path = saved(report_of("a tumour"), tmp_path / "report.dcm")
    ds = dcmread(path)
    del ds.CompletionFlag
    ds.ContentSequence[-3].ConceptCodeSequence[0].CodeValue = "not in CID 100"
    del ds.ContentSequence[-1].ContentSequence[0].ContentSequence[1].UID
    assert judge(saved(ds, tmp_path / "faulty.dcm")) != []
