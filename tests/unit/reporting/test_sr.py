"""The report says what the result says, and the same result always gives the same bytes."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from highdicom import sr
from pydicom import Dataset, dcmwrite
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from tests.testbed import results
from worker.dicom import standard
from worker.reporting.source_attributes import coded
from worker.reporting.sr import build_report
from worker.results import AnswerBasis, ModelIdentity, SeriesResult

SOURCES = results.source_headers()
NEOPLASM = coded(standard.NEOPLASM)


def report_of(
    result: SeriesResult, sources: list[Dataset] = SOURCES, model: ModelIdentity = results.MODEL, **changes: Any
) -> Dataset:
    return build_report(result, model, sources, **{**results.ARGUMENTS, **changes})


def file_of(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def groups_of(report: Dataset) -> list[sr.MeasurementsAndQualitativeEvaluations]:
    """What highdicom's own reader finds in the file."""
    document = sr.srread(BytesIO(file_of(report)))
    return list(document.content.get_image_measurement_groups())


def items(ds: Dataset) -> list[Dataset]:
    """Every content item of the tree."""
    found = []
    for item in ds.get("ContentSequence", []):
        found += [item, *items(item)]
    return found


def evaluations(group: sr.MeasurementsAndQualitativeEvaluations) -> dict[str, str]:
    return {one.name.meaning: one.value.meaning for one in group.get_qualitative_evaluations()}


def comment(report: Dataset) -> str:
    [text] = [i.TextValue for i in items(report) if i.ConceptNameCodeSequence[0].CodeValue == standard.COMMENT[0]]
    return str(text)


def test_series_group_holds_class_and_every_probability() -> None:
    group = groups_of(report_of(results.classified(SOURCES)))[0]
    assert group.finding_type.meaning == "Glioma"
    assert [site.value.meaning for site in group.finding_sites] == ["Brain"]
    assert evaluations(group) == {"Neoplasm": "Present"}
    measured = group.get_measurements(coded(standard.PROBABILITY))
    assert {one.qualifier.meaning: one.value for one in measured} == {
        "Glioma": 0.97, "Intracranial meningioma": 0.01, "Pituitary adenoma": 0.01, "Absent": 0.01,
    }  # fmt: skip
    assert {one.unit.value for one in measured} == {"1"}
    assert len(group.source_images) == 3
    assert group.tracking_identifier == "AI series classification"


def test_each_deciding_slice_has_a_group() -> None:
    result = results.classified(SOURCES, "pituitary", 0.8)
    groups = groups_of(report_of(result))[1:]
    deciding = [one.sop_instance_uid for one in result.slices if one.deciding]
    assert [group.source_images[0].referenced_sop_instance_uid for group in groups] == deciding
    for group in groups:
        assert group.finding_type.meaning == "Pituitary adenoma"
        assert [site.value.meaning for site in group.finding_sites] == ["Pituitary"]
        assert [one.value for one in group.get_measurements(coded(standard.PROBABILITY))] == [0.8]
    assert len({group.tracking_uid for group in groups_of(report_of(result))}) == 4


def test_no_tumour_is_absent_without_a_finding() -> None:
    for group in groups_of(report_of(results.classified(SOURCES, "notumor"))):
        assert group.finding_type is None
        assert evaluations(group) == {"Neoplasm": "Absent"}


def test_not_assessed_is_undetermined_with_the_reason_and_no_class() -> None:
    result = results.not_assessed(SOURCES)
    report = report_of(result)
    [group] = groups_of(report)
    assert group.finding_type is None
    assert evaluations(group) == {"Neoplasm": "Undetermined"}
    assert group.get_measurements() == []
    assert result.detail is not None
    assert result.detail in comment(report)
    assert "Glioma" not in str(report)


def test_comment_carries_research_use_and_limits() -> None:
    text = comment(report_of(results.classified(SOURCES)))
    assert text.startswith("AI, unverified, research use only. Not for diagnosis.")
    assert results.MODEL.limits in text
    assert "Incomplete" not in text


@pytest.mark.parametrize("result", [results.classified(SOURCES), results.not_assessed(SOURCES)])
def test_comment_says_what_is_missing_of_the_series(result: SeriesResult) -> None:
    text = comment(report_of(replace(result, missing="8 of the 10 images that the sender has")))
    assert "\nIncomplete: 8 of the 10 images that the sender has.\n" in text


def test_report_is_complete_unverified_and_preliminary() -> None:
    report = report_of(results.classified(SOURCES))
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE", "UNVERIFIED", "PRELIMINARY",
    )  # fmt: skip
    assert report.SeriesDescription == "AI brain MRI: 3"
    assert report.TimezoneOffsetFromUTC == "+0100"
    assert report.ContentDate + report.ContentTime == "20261121093015.123000"


def test_model_is_observer_algorithm_and_equipment() -> None:
    report = report_of(results.classified(SOURCES))
    equipment = report.ContributingEquipmentSequence[0]
    assert equipment.ManufacturerModelName == "brain-mri-tumour"
    assert equipment.SoftwareVersions == "0.1.0"
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    [observer] = sr.srread(BytesIO(file_of(report))).content.get_observer_contexts()
    assert observer.observer_identifying_attributes.uid == equipment.DeviceUID
    assert observer.observer_identifying_attributes.serial_number == results.MODEL.sha256
    texts = {i.ConceptNameCodeSequence[0].CodeMeaning: i.TextValue for i in items(report) if i.ValueType == "TEXT"}
    assert texts["Algorithm Name"] == "brain-mri-tumour"
    assert results.MODEL.sha256 in texts["Algorithm Parameters"]
    # dcmqi's reader takes them for evaluations of the image.
    assert "Algorithm Manufacturer" not in texts


def test_every_image_read_is_evidence_and_in_the_library() -> None:
    report = report_of(results.classified(SOURCES))
    uids = [source.SOPInstanceUID for source in SOURCES]
    [study] = report.CurrentRequestedProcedureEvidenceSequence
    [series] = study.ReferencedSeriesSequence
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == uids
    library = [i for i in items(report) if i.ConceptNameCodeSequence[0].CodeMeaning == "Source"]
    assert [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in library] == uids


def test_enhanced_image_is_named_once_and_its_frames_by_number() -> None:
    sources = results.enhanced_header(12)
    groups = groups_of(report_of(results.classified(sources), sources))
    frames = [[image.referenced_frame_numbers for image in group.source_images] for group in groups]
    assert frames == [[[6], [7], [8]], [[6]], [[7]], [[8]]]


def test_tumour_of_unknown_kind_is_a_neoplasm_of_the_brain_with_the_probability_of_any_lesion() -> None:
    result = results.classified(SOURCES, "tumor", 0.9, results.MODEL_OF_LESIONS)
    report = report_of(result, model=results.MODEL_OF_LESIONS)
    series, *slices = groups_of(report)
    assert (series.finding_type.value, series.finding_type.meaning) == ("126952004", "Neoplasm of brain")
    assert evaluations(series) == {"Neoplasm": "Present"}
    measured = [(one.qualifier.meaning, one.value) for one in series.get_measurements(coded(standard.PROBABILITY))]
    assert measured[0] == ("Neoplasm of brain", 0.9)
    assert sum(value for _, value in measured[1:]) == pytest.approx(1)
    for group in slices:
        [probability] = group.get_measurements(coded(standard.PROBABILITY))
        assert (probability.qualifier.value, probability.value) == ("126952004", pytest.approx(0.9))
    assert "Class: Tumour, kind not determined, probability 0.900." in comment(report)


def test_a_lesion_that_is_no_tumour_is_found_and_no_neoplasm() -> None:
    result = results.classified(SOURCES, "other", 0.8, results.MODEL_OF_LESIONS)
    group = groups_of(report_of(result, model=results.MODEL_OF_LESIONS))[0]
    assert group.finding_type.meaning == "Lesion of Brain"
    assert evaluations(group) == {"Neoplasm": "Absent"}
    modifiers = {
        one[0].ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning: one.qualifier.meaning
        for one in group.get_measurements(coded(standard.PROBABILITY))
    }
    assert modifiers["Lesion"] == "Absent"  # the class without a finding: "no neoplasm" would include other lesions
    assert "Neoplasm" not in modifiers


def test_comment_tells_what_the_series_is() -> None:
    result = replace(results.classified(SOURCES), series_type="T1, with contrast agent, axial")
    assert "Series by its headers: T1, with contrast agent, axial.\n" in comment(report_of(result))


def test_comment_tells_on_what_the_answer_rests() -> None:
    basis = AnswerBasis("T1C", "header", "axial", True, 24, 20, 0.9)
    text = comment(report_of(replace(results.classified(SOURCES), basis=basis)))
    assert (
        "\nJudged as T1 with contrast agent, by the header; 20 of 24 slices show brain like that of training, " in text
    )
    untold = comment(report_of(replace(results.not_assessed(SOURCES), basis=replace(basis, sequence=None))))
    assert "\n20 of 24 slices show brain" in untold


def test_laterality_is_never_said() -> None:
    names = {i.ConceptNameCodeSequence[0].CodeValue for i in items(report_of(results.classified(SOURCES)))}
    assert codes.SCT.Laterality.value not in names


def test_same_input_gives_the_same_bytes() -> None:
    result = results.classified(SOURCES)
    assert file_of(report_of(result)) == file_of(report_of(result))


def test_revision_names_its_predecessor() -> None:
    first = report_of(results.not_assessed(SOURCES))
    second = report_of(results.classified(SOURCES), sop_instance_uid="2.25.7", predecessors=[first])
    [study] = second.PredecessorDocumentsSequence
    [item] = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)


@pytest.mark.parametrize(
    ("comprehensive_3d", "sop_class"), [(True, Comprehensive3DSRStorage), (False, ComprehensiveSRStorage)]
)
def test_destination_chooses_the_class(comprehensive_3d: bool, sop_class: str) -> None:
    report = report_of(results.classified(SOURCES), comprehensive_3d=comprehensive_3d)
    assert report.SOPClassUID == sop_class
    assert report.file_meta.MediaStorageSOPClassUID == sop_class


def test_unknown_image_is_refused_without_its_uid() -> None:
    result = results.classified(SOURCES)
    stranger = replace(result.slices[4], sop_instance_uid="1.2.3.4.5")
    with pytest.raises(ValueError, match="not among the sources") as refusal:
        report_of(replace(result, slices=(*result.slices[:4], stranger)))
    assert "1.2.3.4.5" not in str(refusal.value)


def test_no_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="evidence"):
        report_of(replace(results.not_assessed(SOURCES), slices=()), [])


def test_uid_with_leading_zeros_is_kept() -> None:
    sources = results.source_headers(SeriesInstanceUID="1.2.03.4", StudyInstanceUID="1.2.03", FrameOfReferenceUID="x")
    report = report_of(results.classified(sources), sources)
    assert report.StudyInstanceUID == "1.2.03"
    [study] = report.CurrentRequestedProcedureEvidenceSequence
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.03.4"
