"""Build the DICOM Structured Report of a series result: TID 1500 Measurement Report (PS3.16), unverified.

Deterministic: the same values give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from highdicom import sr
from pydicom import Dataset

from worker.dicom import standard
from worker.dicom.standard import derive_uid
from worker.reporting import source_attributes
from worker.reporting.source_attributes import RESEARCH_USE, CodeTriple, coded
from worker.results import AnswerBasis, ModelClass, ModelIdentity, ResultStatus, SeriesResult, SliceResult

SERIES_NUMBER = 9901  # beyond the numbers of scanners
SERIES_DESCRIPTION = "AI brain MRI, unverified, research use"


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
    if not {item.sop_instance_uid for item in result.slices} <= {source.SOPInstanceUID for source in sources}:
        raise ValueError("the result names an image that is not among the sources")  # highdicom would name it
    answer = _answer_class(result, model)
    groups = [_series_group(result, model, answer, sop_instance_uid)]
    if answer is not None:
        deciding = [item for item in result.slices if item.deciding]
        groups += [_slice_group(result, item, model, answer, sop_instance_uid) for item in deciding]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=source_attributes.device_observer(model)),
        procedure_reported=coded(standard.MRI_PROCEDURE),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            coded(("en-US", "RFC5646", "English (United States)"))
        ),
        imaging_measurements=groups,
    )
    sop_class = sr.Comprehensive3DSR if comprehensive_3d else sr.ComprehensiveSR
    document = sop_class(
        evidence=source_attributes.evidence(sources),
        content=content,
        series_instance_uid=series_instance_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=sop_instance_uid,
        instance_number=1 + max((int(report.InstanceNumber) for report in predecessors), default=0),
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=list(predecessors) or None,
    )
    report = Dataset(document)
    report.file_meta = document.file_meta
    # Added after highdicom, which copies and checks its content tree several times: slow with hundreds of images.
    *context, measurements = document.ContentSequence
    report.ContentSequence = [*context, _image_library(sources), measurements]
    source_attributes.stamp(report, sources[0], model, created_at, worker_version, SERIES_DESCRIPTION)
    return report


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
        measured = [_probability(item, model, result.probabilities[item.name]) for item in model.classes]
        if answer not in model.classes:
            measured.insert(0, _probability(answer, model, result.probability))
        deciding = [item for item in result.slices if item.deciding]
    group = _group("AI series classification", derive_uid("tracking", report_uid), model, answer, measured, deciding)
    group[0].ContentSequence.append(
        sr.TextContentItem(
            name=coded(standard.COMMENT),
            value=_comment(result, model, answer),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
    )
    return group


def _slice_group(
    result: SeriesResult, deciding: SliceResult, model: ModelIdentity, answer: ModelClass, report_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for a deciding slice: the probability of the series' answer on this image alone."""
    number = result.slices.index(deciding) + 1
    identifier = f"AI deciding slice {number} of {len(result.slices)}"
    image = (deciding.sop_instance_uid, str(deciding.frame_number or 0))
    tracking_uid = derive_uid("tracking", report_uid, *image, str(number))  # an image may stand for several slices
    measured = [_probability(answer, model, model.probability_of(answer, deciding.probabilities))]
    return _group(identifier, tracking_uid, model, answer, measured, [deciding])


def _group(
    identifier: str,
    tracking_uid: str,
    model: ModelIdentity,
    answer: ModelClass | None,
    measured: list[sr.Measurement],
    deciding: list[SliceResult],
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501; `answer` is None where the series is not assessed. The model gives no laterality, so there is none."""
    presence = standard.UNDETERMINED if answer is None else standard.PRESENT if answer.neoplasm else standard.ABSENT
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=tracking_uid, identifier=identifier),
        finding_type=coded(answer.finding) if answer is not None and answer.finding is not None else None,
        finding_sites=[sr.FindingSite(coded(answer.site))] if answer is not None else None,
        algorithm_id=sr.AlgorithmIdentification(
            name=model.name,
            version=model.version,
            parameters=[f"bundle sha256 {model.sha256}; {model.parameters}"],  # viewers show the first only
        ),
        measurements=measured,
        qualitative_evaluations=[sr.QualitativeEvaluation(name=coded(standard.NEOPLASM), value=coded(presence))],
        source_images=[
            sr.SourceImageForMeasurementGroup(
                item.sop_class_uid,
                item.sop_instance_uid,
                [item.frame_number] if item.frame_number is not None else None,
            )
            for item in deciding
        ],
    )


def _probability(model_class: ModelClass, model: ModelIdentity, value: float) -> sr.Measurement:
    """TID 300: Probability with the class as its qualifier, and as a modifier, which viewers show."""
    if model_class.finding is not None:
        name, code = coded(standard.FINDING), coded(model_class.finding)
    else:
        others = any(item.is_lesion and not item.neoplasm for item in model.classes)
        name, code = coded(standard.LESION if others else standard.NEOPLASM), coded(standard.ABSENT)
    measurement = sr.Measurement(
        name=coded(standard.PROBABILITY),
        value=round(value, 6),
        unit=coded(("1", "UCUM", "no units")),
        qualifier=code,
    )
    measurement[0].ContentSequence = sr.ContentSequence(
        [
            sr.CodeContentItem(
                name=name,
                value=code,
                relationship_type=sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
            )
        ]
    )
    return measurement


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
    sequence = "T1 with contrast agent" if basis.sequence == "T1C" else basis.sequence
    judged = f"Judged as {sequence}, by the {basis.sequence_source}; " if sequence else ""
    reformatted = ", reformatted to slices like those of training" if basis.reformatted else ""
    return f"{judged}{basis.slices_with_say} of {basis.slices} slices show brain like that of training{reformatted}."


def _image_library(sources: Sequence[Dataset]) -> Dataset:
    """TID 1600: every image read, in a group with the attributes that they share.

    highdicom's implementation requires geometry of every image and writes seventeen items for each.
    """
    group = _container(("126200", "DCM", "Image Library Group"))
    modality = standard.MODALITIES.get(source_attributes.modality(sources[0]), standard.MODALITIES["OT"])
    context = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    group.ContentSequence.append(sr.CodeContentItem(coded(("121139", "DCM", "Modality")), coded(modality), context))
    if (uid := source_attributes.frame_of_reference(sources)) is not None:
        group.ContentSequence.append(
            sr.UIDRefContentItem(coded(("112227", "DCM", "Frame of Reference UID")), uid, context)
        )
    name = [source_attributes.code_item(standard.SOURCE)]
    for source in sources:
        item = Dataset()
        item.RelationshipType = "CONTAINS"
        item.ValueType = "IMAGE"
        item.ConceptNameCodeSequence = name
        item.ReferencedSOPSequence = [source_attributes.reference_item(source)]
        group.ContentSequence.append(item)
    library = _container(("111028", "DCM", "Image Library"))
    library.ContentSequence.append(group)
    return library


def _container(name: CodeTriple) -> Dataset:
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "CONTAINER"
    item.ConceptNameCodeSequence = [source_attributes.code_item(name)]
    item.ContinuityOfContent = "SEPARATE"
    item.ContentSequence = []
    return item
