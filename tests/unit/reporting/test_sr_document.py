"""What the reports of series and of studies share; their groups are tested with each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydicom import Dataset

from tests.testbed import results
from worker.reporting.source_attributes import SourceImage
from worker.reporting.sr_document import build_document, measurement_group, sequence_in_words

SOURCES = results.source_headers()
IMAGES = [[SourceImage.of(header) for header in SOURCES]]


def _report(**arguments: object) -> Dataset:
    group = measurement_group("x", "1.2.3", results.MODEL, None, [], [])
    return build_document([group], results.MODEL, IMAGES, SOURCES[0], results.STUDY_IDENTITY, **arguments)  # type: ignore[arg-type]


def test_a_summary_stands_before_the_list_of_images() -> None:
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in _report(summary="what is found").ContentSequence]
    assert names.index("Comment") < names.index("Image Library") < names.index("Imaging Measurements")
    assert "Comment" not in [item.ConceptNameCodeSequence[0].CodeMeaning for item in _report().ContentSequence]


def test_every_image_is_evidence_once_in_its_study_and_series() -> None:
    first, second = IMAGES[0][:2]
    other = first._replace(sop_instance_uid="1.2.9", series_instance_uid="1.2.8", study_instance_uid="1.2.7")
    group = measurement_group("x", "1.2.3", results.MODEL, None, [], [])
    images = [[first, second], [other, first]]
    report = build_document([group], results.MODEL, images, SOURCES[0], results.STUDY_IDENTITY)
    listed = [
        (study.StudyInstanceUID, series.SeriesInstanceUID, [sop.ReferencedSOPInstanceUID for sop in series[0x00081199]])
        for sequence in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report[sequence]
        for series in study.ReferencedSeriesSequence
    ]
    uids = [first.sop_instance_uid, second.sop_instance_uid]
    assert listed == [(first.study_instance_uid, first.series_instance_uid, uids), ("1.2.7", "1.2.8", ["1.2.9"])]


def test_a_revision_has_the_next_instance_number() -> None:
    first = _report()
    again = _report(predecessors=[first])
    assert (first.InstanceNumber, again.InstanceNumber) == (1, 2)
    [study] = again.PredecessorDocumentsSequence
    [series] = study.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        build_document(
            [measurement_group("x", "1.2.3", results.MODEL, None, [], [])], results.MODEL, IMAGES, SOURCES[0],
            replace(results.STUDY_IDENTITY, created_at=results.CREATED_AT.replace(tzinfo=None)),
        )  # fmt: skip


def test_a_sequence_is_written_out() -> None:
    assert (sequence_in_words("T1C"), sequence_in_words("FLAIR")) == ("T1 with contrast agent", "FLAIR")
