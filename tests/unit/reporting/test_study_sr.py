"""The content of the report of a study."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from tests.testbed import results
from tests.unit.reporting.test_sr import file_of, items
from worker.reporting.study_sr import build_study_report
from worker.results import ReportedStudy

SOURCE = results.source_headers()[0]
STUDIES = results.STUDIES


def report_of(study: ReportedStudy, **arguments: Any) -> Dataset:
    return build_study_report(study, results.MODEL, SOURCE, results.STUDY_IDENTITY, **arguments)


def groups_of(report: Dataset) -> list[Dataset]:
    [measurements] = [item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return list(measurements.ContentSequence)


def value_of(group: Dataset, name: str) -> Any:
    """The value of the first item of that name in a group; None without."""
    for item in group.ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeMeaning == name:
            match item.ValueType:
                case "CODE":
                    return item.ConceptCodeSequence[0].CodeMeaning
                case "NUM":
                    return float(item.MeasuredValueSequence[0].NumericValue)
                case "TEXT":
                    return item.TextValue
                case _:
                    return item.UID
    return None


def test_a_group_for_the_study_for_each_series_and_for_each_key_slice_of_the_deciding_series() -> None:
    study = STUDIES["no tumour"]
    groups = groups_of(report_of(study))
    assert [value_of(group, "Tracking Identifier") for group in groups] == [
        "AI study classification",
        "series 2: AX T1",
        "series 3: AX FLAIR",
        "series 9: KNIE SAG PD",
        "AI key slice 4 of 8, series 2: AX T1",
        "AI key slice 5 of 8, series 2: AX T1",
        "AI key slice 6 of 8, series 2: AX T1",
    ]
    uids = [value_of(group, "Tracking Unique Identifier") for group in groups]
    assert len(set(uids)) == len(uids)


def test_the_study_group_has_the_answer_the_probabilities_and_how_series_were_weighed() -> None:
    group = groups_of(report_of(STUDIES["one series"]))[0]
    assert (value_of(group, "Finding"), value_of(group, "Neoplasm")) == ("Glioma", "Present")
    assert value_of(group, "Algorithm Parameters").endswith(STUDIES["one series"].rule)
    assert "Series 5: AX T1 POST: Glioma 0.900, counts 100 %." in value_of(group, "Comment").splitlines()
    images = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert len(images) == 3


def test_a_series_group_has_what_the_series_was_judged_as_and_its_answer() -> None:
    first, last = groups_of(report_of(STUDIES["series disagree"]))[1:3]
    names = ("Finding", "Neoplasm", "Acquisition Plane", "Contrast agent", "Acquisition Protocol", "Comment")
    assert [value_of(first, name) for name in names] == [
        "Glioma", "Present", "Axial", "Present", "T1 with contrast agent",
        "Glioma 0.800, counts 50 %, contradicts. Deciding series",
    ]  # fmt: skip
    assert [value_of(last, name) for name in names] == [
        None, "Absent", "Axial", "Undetermined", "FLAIR", "No tumour 0.900, counts 50 %, contradicts",
    ]  # fmt: skip


def test_a_series_that_is_not_assessed_has_the_reason_and_no_probability() -> None:
    knee = groups_of(report_of(STUDIES["no tumour"]))[3]
    assert (value_of(knee, "Neoplasm"), value_of(knee, "Comment")) == ("Undetermined", "Not assessed: body part")
    assert value_of(knee, "Probability") is None
    assert not [item for item in knee.ContentSequence if item.ValueType == "IMAGE"]


@pytest.mark.parametrize("name", ["series disagree", "not assessed"])
def test_a_study_without_an_answer_is_undetermined_with_the_reason(name: str) -> None:
    group = groups_of(report_of(STUDIES[name]))[0]
    assert (value_of(group, "Neoplasm"), value_of(group, "Finding")) == ("Undetermined", None)
    assert f"Not assessed: {STUDIES[name].result.detail}" in value_of(group, "Comment").splitlines()


def test_series_that_contradict_are_named_in_the_summary() -> None:
    summary = next(item.TextValue for item in report_of(STUDIES["twelve series"]).ContentSequence if "TextValue" in item
                   and item.ConceptNameCodeSequence[0].CodeMeaning == "Comment")  # fmt: skip
    assert "The series contradict each other. series 1 (T1, axial)" in summary
    assert len(summary.splitlines()) == 3 + 12 + 1


def test_every_image_that_was_read_is_in_the_library_and_evidence() -> None:
    study = STUDIES["twelve series"]
    report = report_of(study)
    read = {uid for series in study.series for _, uid in series.images}
    library = next(item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "111028")
    listed = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(library) if item.ValueType == "IMAGE"
    ]
    assert (len(listed), set(listed)) == (len(read), read)
    evidence = [*report.CurrentRequestedProcedureEvidenceSequence, *report.get("PertinentOtherEvidenceSequence", [])]
    named = {
        item.ReferencedSOPInstanceUID
        for part in evidence
        for series in part.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == read


def test_the_same_study_gives_the_same_bytes_and_a_revision_the_same_tracking_uids() -> None:
    study = STUDIES["series disagree"]
    first = report_of(study)
    assert file_of(first) == file_of(report_of(study))
    identity = replace(results.STUDY_IDENTITY, sop_instance_uid="1.2.3.4")
    again = build_study_report(study, results.MODEL, SOURCE, identity, predecessors=[first])
    uids = [[value_of(group, "Tracking Unique Identifier") for group in groups_of(report)] for report in (first, again)]
    assert uids[0] == uids[1]
    assert again.SOPInstanceUID != first.SOPInstanceUID
    assert len(again.PredecessorDocumentsSequence) == 1


def test_without_an_image_there_is_no_report() -> None:
    with pytest.raises(ValueError, match="no image"):
        report_of(results.reported_study([results.series_said(1, None, images=0)], None, None))


def test_an_image_that_was_not_read_is_no_key_slice() -> None:
    [series] = STUDIES["one series"].series
    others = tuple((sop_class_uid, f"{uid}.1") for sop_class_uid, uid in series.images)
    with pytest.raises(ValueError, match="an image that was not read"):
        report_of(results.reported_study([replace(series, images=others)]))


def test_a_description_in_any_script_is_whole_in_the_report_that_is_stored() -> None:
    description = "頭部 造影後 뇌 T1"  # of which the picture draws question marks
    study = results.reported_study([results.series_said(2, "glioma", description=description)])
    stored = dcmread(BytesIO(file_of(report_of(study))))
    assert stored.SpecificCharacterSet == "ISO_IR 192"
    assert f"series 2: {description}" in [value_of(group, "Tracking Identifier") for group in groups_of(stored)]
