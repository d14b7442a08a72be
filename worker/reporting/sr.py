"""Build the DICOM Structured Report of a series result: TID 1500 Measurement Report (PS3.16), unverified.

Deterministic: the same values give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from highdicom import sr
from pydicom import Dataset

from worker.db.tables import ObjectKind
from worker.dicom import standard
from worker.dicom.standard import derive_uid
from worker.reporting import source_attributes
from worker.reporting.source_attributes import RESEARCH_USE, SourceImage
from worker.reporting.sr_document import (
    Identity,
    add_text,
    build_document,
    measurement_group,
    probabilities,
    probability,
    sequence_in_words,
)
from worker.results import AnswerBasis, ModelClass, ModelIdentity, ResultStatus, SeriesResult, SliceResult


@source_attributes.no_warnings()
def build_report(
    result: SeriesResult,
    model: ModelIdentity,
    sources: Sequence[Dataset],
    *,
    series_instance_uid: str,
    sop_instance_uid: str,
    created_at: datetime,
    worker_version: str,
    predecessors: Sequence[Dataset] = (),
    comprehensive_3d: bool = True,
) -> Dataset:
    """Build the report of a series, Explicit VR Little Endian, with file meta information.

    `sources`: the header of every image read, in stack order; at least one, with Study, Series and SOP UIDs.
    `created_at`: aware, in the hospital's time zone. `predecessors`: the headers of the reports to replace.
    `comprehensive_3d`: False for a destination that refuses Comprehensive 3D SR; Comprehensive SR instead.
    Raises ValueError for no sources, a naive time or a result that names an image which is not among the sources.
    Source: IHE RAD AI Results; PS3.16 TID 1500, 1501, 300, 4019.
    """
    if not sources:
        raise ValueError("no image was read: there is no evidence")
    if not {item.sop_instance_uid for item in result.slices} <= {source.SOPInstanceUID for source in sources}:
        raise ValueError("the result names an image that is not among the sources")  # highdicom would name it
    answer = _answer_class(result, model)
    groups = [_series_group(result, model, answer, sop_instance_uid)]
    if answer is not None:
        deciding = [item for item in result.slices if item.deciding]
        groups += [_slice_group(result, item, model, answer, sop_instance_uid) for item in deciding]
    identity = Identity.of_series(
        sources[0], ObjectKind.REPORT, series_instance_uid, sop_instance_uid, created_at, worker_version
    )
    return build_document(
        groups,
        model,
        [[SourceImage.of(source) for source in sources]],
        sources[0],
        identity,
        frame_of_reference=source_attributes.frame_of_reference(sources),
        predecessors=predecessors,
        comprehensive_3d=comprehensive_3d,
    )


def _answer_class(result: SeriesResult, model: ModelIdentity) -> ModelClass | None:
    """The class of the result, None where it is not assessed."""
    if result.status is ResultStatus.NOT_ASSESSED:
        return None
    if result.label is None:
        raise ValueError("a classified result has a label")
    return model.class_named(result.label)


def _series_group(
    result: SeriesResult, model: ModelIdentity, answer: ModelClass | None, report_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for the whole series: the answer with every class's probability, or Undetermined and why."""
    measured, deciding = [], []
    if answer is not None and result.probability is not None:
        measured = probabilities(model, answer, result.probabilities, result.probability)
        deciding = [item for item in result.slices if item.deciding]
    tracking_uid = derive_uid("tracking", report_uid)
    group = measurement_group("AI series classification", tracking_uid, model, answer, measured, deciding)
    add_text(group, standard.COMMENT, _comment(result, model, answer))
    return group


def _slice_group(
    result: SeriesResult, deciding: SliceResult, model: ModelIdentity, answer: ModelClass, report_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for a deciding slice: the probability of the series' answer on this image alone."""
    number = result.slices.index(deciding) + 1
    identifier = f"AI deciding slice {number} of {len(result.slices)}"
    image = (deciding.sop_instance_uid, str(deciding.frame_number or 0))
    tracking_uid = derive_uid("tracking", report_uid, *image, str(number))  # an image may stand for several slices
    measured = [probability(answer, model, model.probability_of(answer, deciding.probabilities))]
    return measurement_group(identifier, tracking_uid, model, answer, measured, [deciding])


def _comment(result: SeriesResult, model: ModelIdentity, answer: ModelClass | None) -> str:
    if answer is not None:
        verdict = f"Class: {answer.title}, probability {result.probability:.3f}."
    else:
        verdict = f"Not assessed: {result.detail or result.reason or 'no reason given'}"
    incomplete = f"Incomplete: {result.missing}.\n" if result.missing else ""
    series = f"Series by its headers: {result.series_type}.\n" if result.series_type else ""
    judged = f"{_basis(result.basis)}\n" if result.basis is not None else ""
    return f"{RESEARCH_USE}. Not for diagnosis.\n{verdict}\n{series}{judged}{incomplete}Limits: {model.limits}"


def _basis(basis: AnswerBasis) -> str:
    """On what the answer rests, in words."""
    sequence, told_by = basis.sequence, basis.sequence_source
    judged = f"Judged as {sequence_in_words(sequence)}, by the {told_by}; " if sequence else ""
    reformatted = ", reformatted to slices like those of training" if basis.reformatted else ""
    return f"{judged}{basis.slices_with_say} of {basis.slices} slices show brain like that of training{reformatted}."
