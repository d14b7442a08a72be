"""Build the DICOM Structured Report of the answer for a study: TID 1500 (PS3.16), unverified.

A measurement group for the study, a group for each series, and a group for each key slice of the deciding series.
Deterministic: the same values give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from pydicom import Dataset

from worker.dicom import standard
from worker.dicom.standard import derive_uid
from worker.dicom.text.printable import printable
from worker.reporting import source_attributes
from worker.reporting.source_attributes import RESEARCH_USE, CodeTriple, SourceImage
from worker.reporting.sr_document import (
    Identity,
    add_text,
    build_document,
    measurement_group,
    probabilities,
    probability,
    sequence_in_words,
)
from worker.results import ModelClass, ModelIdentity, ReportedSeries, ReportedStudy

_PLANES: dict[str, CodeTriple] = {  # PS3.16 CID 26
    "axial": ("24422004", "SCT", "Axial"),
    "sagittal": ("30730003", "SCT", "Sagittal"),
    "coronal": ("81654009", "SCT", "Coronal"),
}
_AGENTS: dict[str | None, CodeTriple] = {"with": standard.PRESENT, "without": standard.ABSENT}
_LONGEST = 60  # of a description in a tracking identifier


@source_attributes.no_warnings()
def build_study_report(
    study: ReportedStudy,
    model: ModelIdentity,
    source: Dataset,
    identity: Identity,
    *,
    predecessors: Sequence[Dataset] = (),
    comprehensive_3d: bool = True,
) -> Dataset:
    """Build the report of a study, Explicit VR Little Endian, with file meta information.

    `source`: the header of an image of the study, whose patient and study attributes the report has. Of at least one
    series images were read. Raises ValueError for none, for a key slice that is not among them, and for a naive time.
    Other arguments as for `build_document`.
    Source: IHE RAD AI Results; PS3.16 TID 1500, 1501, 300, 4019.
    """
    images = [source_images(study, series) for series in study.series if series.images]
    if not images:
        raise ValueError("no image was read")
    named = {item.sop_instance_uid for series in study.series for _, item in series.key_slices}
    if not named <= {image.sop_instance_uid for series in images for image in series}:
        raise ValueError("the answer names an image that was not read")
    answer = _class_of(study.result.label, model)
    groups = [_study_group(study, model, answer, identity.series_instance_uid)]
    groups += [_series_group(series, study, model, identity.series_instance_uid) for series in study.series]
    if answer is not None and study.deciding is not None:
        groups += [
            _slice_group(study.deciding, index, model, answer, identity.series_instance_uid)
            for index in range(len(study.deciding.key_slices))
        ]
    return build_document(
        groups,
        model,
        images,
        source,
        identity,
        summary=summary(study, model),
        predecessors=predecessors,
        comprehensive_3d=comprehensive_3d,
    )


def summary(study: ReportedStudy, model: ModelIdentity) -> str:
    """The answer and what each series said, a line each."""
    result = study.result
    answer = _class_of(result.label, model)
    if answer is not None:
        verdict = f"Class: {answer.title}, probability {result.probability:.3f}."
    else:
        verdict = f"Not assessed: {result.detail or result.reason or 'no reason given'}"
    lines = [f"{RESEARCH_USE}. Not for diagnosis.", verdict]
    if answer is not None and result.contradiction:
        lines.append(f"The series contradict each other. {result.contradiction}")
    lines += [f"Series {printable_title(series)}: {series_verdict(series, model)}." for series in study.series]
    return "\n".join([*lines, f"Limits: {model.limits}"])


def series_verdict(series: ReportedSeries, model: ModelIdentity) -> str:
    """What a series said and how it counted, for a person."""
    said, counted = series.contribution.answer, series.contribution
    label = _class_of(said.label, model)
    if label is None:
        return f"not assessed, {(said.reason or 'no answer').replace('-', ' ')}"
    against = ", contradicts" if counted.contradicts else ""
    return f"{label.title} {answer_probability(series, model):.3f}, counts {100 * counted.weight:.0f} %{against}"


def answer_probability(series: ReportedSeries, model: ModelIdentity) -> float:
    """The probability of the label of an assessed series: that of any lesion where the label is no class."""
    said = series.contribution.answer
    return said.probabilities.get(said.label or "", said.lesion_probability or 0.0)


def printable_title(series: ReportedSeries) -> str:
    """The title of a series on a line of its own."""
    title = printable(series.title)
    return title if len(title) <= _LONGEST else f"{title[: _LONGEST - 1].rstrip()}…"


def _class_of(label: str | None, model: ModelIdentity) -> ModelClass | None:
    return model.class_named(label) if label is not None else None


def _study_group(
    study: ReportedStudy, model: ModelIdentity, answer: ModelClass | None, series_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for the study: the answer with every class's probability, or Undetermined and why."""
    result, deciding = study.result, study.deciding
    measured, images = [], []
    if answer is not None and result.probability is not None:
        measured = probabilities(model, answer, result.probabilities, result.probability)
        images = [item for _, item in deciding.key_slices] if deciding is not None else []
    tracking_uid = derive_uid("tracking", series_uid)
    group = measurement_group(standard.STUDY_GROUP, tracking_uid, model, answer, measured, images, rule=study.rule)
    add_text(group, standard.COMMENT, summary(study, model))
    return group


def _series_group(
    series: ReportedSeries, study: ReportedStudy, model: ModelIdentity, series_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for a series: what it was judged as, its answer or the reason for none, and how it counted.

    Its tracking UID is the same in every revision, so that a FHIR server replaces what was said before.
    """
    said = series.contribution.answer
    answer = _class_of(said.label, model)
    measured = []
    if answer is not None:
        value = answer_probability(series, model)
        measured = probabilities(model, answer, said.probabilities, value)
    evaluations = [(standard.CONTRAST_AGENT, _AGENTS.get(series.contrast_agent, standard.UNDETERMINED))]
    if said.plane in _PLANES:
        evaluations.insert(0, (standard.ACQUISITION_PLANE, _PLANES[said.plane]))
    group = measurement_group(
        f"{standard.SERIES_GROUPS}{printable_title(series)}",
        derive_uid("tracking", series_uid, said.series),
        model,
        answer,
        measured,
        [item for _, item in series.key_slices],
        evaluations=evaluations,
    )
    if said.sequence is not None:
        add_text(group, standard.ACQUISITION_PROTOCOL, sequence_in_words(said.sequence))
    deciding = ". Deciding series" if series is study.deciding else ""
    not_assessed = "Not assessed: " + (said.reason or "no answer").replace("-", " ")
    add_text(group, standard.COMMENT, not_assessed if answer is None else series_verdict(series, model) + deciding)
    return group


def _slice_group(
    series: ReportedSeries, index: int, model: ModelIdentity, answer: ModelClass, series_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for a key slice of the deciding series: the probability of the study's answer on this image alone."""
    number, key_slice = series.key_slices[index]
    identifier = f"AI key slice {number} of {series.slices}, series {printable_title(series)}"
    image = (key_slice.sop_instance_uid, str(key_slice.frame_number or 0))
    tracking_uid = derive_uid("tracking", series_uid, *image, str(number))  # an image may stand for several slices
    measured = [probability(answer, model, model.probability_of(answer, key_slice.probabilities))]
    return measurement_group(identifier, tracking_uid, model, answer, measured, [key_slice])


def source_images(study: ReportedStudy, series: ReportedSeries) -> list[SourceImage]:
    """The images of a series."""
    uids = (study.study_instance_uid, series.contribution.answer.series)
    return [SourceImage(*image, *uids) for image in series.images]
