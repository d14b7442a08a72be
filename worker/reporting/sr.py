"""A series result as a DICOM Structured Report: TID 1500 Measurement Report (PS3.16), research use, unverified.

Pure: the same values give the same bytes, whenever and wherever they are built.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from highdicom import sr
from pydicom import Dataset

from worker.dicom import standard
from worker.dicom.standard import derive_uid
from worker.reporting import source_attributes as source_series
from worker.reporting.source_attributes import RESEARCH_USE, CodeTriple, coded
from worker.results import ModelClass, ModelIdentity, ResultStatus, SeriesResult, SliceResult

SERIES_NUMBER = 9901  # beyond what scanners count to
SERIES_DESCRIPTION = "AI brain MRI, unverified, research use"


@source_series.no_warnings()
def build_report(
    result: SeriesResult,
    model: ModelIdentity,
    sources: Sequence[Dataset],
    *,
    series_instance_uid: str,
    sop_instance_uid: str,
    created_at: datetime,
    worker_version: str,
    predecessor: Dataset | None = None,
    comprehensive_3d: bool = True,
) -> Dataset:
    """The report of one series, Explicit VR Little Endian, with file meta information.

    `sources`: the header of every image read, in stack order; at least one, with Study, Series and SOP UIDs.
    `created_at`: aware, in the hospital's time zone. `predecessor`: the header of the report that this one replaces.
    `comprehensive_3d`: False for a destination that refuses Comprehensive 3D SR; Comprehensive SR instead.
    Raises ValueError for no sources, a naive time or a result that names an image which is not among the sources.
    Source: IHE RAD AI Results; PS3.16 TID 1500, 1501, 300, 4019.
    """
    if not {one.sop_instance_uid for one in result.slices} <= {source.SOPInstanceUID for source in sources}:
        raise ValueError("the result names an image that is not among the sources")  # highdicom would name it
    found = _found(result, model)
    groups = [_series_group(result, model, found, sop_instance_uid)]
    if found is not None:
        groups += [_slice_group(result, one, model, found, sop_instance_uid) for one in result.slices if one.deciding]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=source_series.device_observer(model)),
        procedure_reported=coded(standard.MRI_PROCEDURE),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            coded(("en-US", "RFC5646", "English (United States)"))
        ),
        imaging_measurements=groups,
    )
    sop_class = sr.Comprehensive3DSR if comprehensive_3d else sr.ComprehensiveSR
    document = sop_class(
        evidence=source_series.evidence(sources),
        content=content,
        series_instance_uid=series_instance_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=sop_instance_uid,
        instance_number=1 if predecessor is None else int(predecessor.InstanceNumber) + 1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=[predecessor] if predecessor is not None else None,
    )
    report = Dataset(document)
    report.file_meta = document.file_meta
    # After highdicom, which copies and checks its content tree several times: slow with hundreds of images in it.
    *context, measurements = document.ContentSequence
    report.ContentSequence = [*context, _image_library(sources), measurements]
    source_series.stamp(report, sources[0], model, created_at, worker_version, SERIES_DESCRIPTION)
    return report


def _found(result: SeriesResult, model: ModelIdentity) -> ModelClass | None:
    """The class that was given, None where nothing could be assessed."""
    if result.status is ResultStatus.NOT_ASSESSED:
        return None
    if result.label is None:
        raise ValueError("a classified result has a label")
    return model.class_named(result.label)


def _series_group(
    result: SeriesResult, model: ModelIdentity, found: ModelClass | None, report_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for the whole series: the class with every class's probability, or Undetermined and why."""
    measured, deciding = [], []
    if found is not None:
        measured = [_probability(one, result.probabilities[one.name]) for one in model.classes]
        deciding = [one for one in result.slices if one.deciding]
    group = _group("AI series classification", derive_uid("tracking", report_uid), model, found, measured, deciding)
    group[0].ContentSequence.append(
        sr.TextContentItem(
            name=coded(standard.COMMENT),
            value=_comment(result, model, found),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
    )
    return group


def _slice_group(
    result: SeriesResult, one: SliceResult, model: ModelIdentity, found: ModelClass, report_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for one deciding slice: how probable the series' class is on this image alone."""
    number = result.slices.index(one) + 1
    identifier = f"AI deciding slice {number} of {len(result.slices)}"
    tracking_uid = derive_uid("tracking", report_uid, one.sop_instance_uid, str(one.frame_number or 0))
    measured = [_probability(found, one.probabilities[model.classes.index(found)])]
    return _group(identifier, tracking_uid, model, found, measured, [one])


def _group(
    identifier: str,
    tracking_uid: str,
    model: ModelIdentity,
    found: ModelClass | None,
    measured: list[sr.Measurement],
    deciding: list[SliceResult],
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501; `found` is None where nothing could be assessed. Laterality is never said: the model has none."""
    presence = standard.UNDETERMINED if found is None else standard.PRESENT if found.neoplasm else standard.ABSENT
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=tracking_uid, identifier=identifier),
        finding_type=coded(found.finding) if found is not None and found.finding is not None else None,
        finding_sites=[sr.FindingSite(coded(found.site))] if found is not None else None,
        algorithm_id=sr.AlgorithmIdentification(
            name=model.name,
            version=model.version,
            parameters=[f"bundle sha256 {model.sha256}; {model.parameters}"],  # readers show only one
        ),
        measurements=measured,
        qualitative_evaluations=[sr.QualitativeEvaluation(name=coded(standard.NEOPLASM), value=coded(presence))],
        source_images=[
            sr.SourceImageForMeasurementGroup(
                one.sop_class_uid,
                one.sop_instance_uid,
                [one.frame_number] if one.frame_number is not None else None,
            )
            for one in deciding
        ],
    )


def _probability(of: ModelClass, value: float) -> sr.Measurement:
    """TID 300: Probability with the class as its qualifier, and as a modifier, which viewers show."""
    if of.finding is not None:
        name, code = coded(standard.FINDING), coded(of.finding)
    else:
        name, code = coded(standard.NEOPLASM), coded(standard.PRESENT if of.neoplasm else standard.ABSENT)
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


def _comment(result: SeriesResult, model: ModelIdentity, found: ModelClass | None) -> str:
    if found is not None:
        answer = f"Class: {found.title}, probability {result.probabilities[found.name]:.3f}."
    else:
        answer = f"Not assessed: {result.detail or result.reason or 'no reason given'}"
    incomplete = f"Incomplete: {result.missing}.\n" if result.missing else ""
    return f"{RESEARCH_USE}. Not for diagnosis.\n{answer}\n{incomplete}Limits: {model.limits}"


def _image_library(sources: Sequence[Dataset]) -> Dataset:
    """TID 1600: every image read, in one group that says what they share.

    highdicom's own demands geometry from every image and writes seventeen items for each.
    """
    group = _container(("126200", "DCM", "Image Library Group"))
    modality = standard.MODALITIES.get(source_series.modality(sources[0]), standard.MODALITIES["OT"])
    context = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    group.ContentSequence.append(sr.CodeContentItem(coded(("121139", "DCM", "Modality")), coded(modality), context))
    if (uid := source_series.frame_of_reference(sources)) is not None:
        group.ContentSequence.append(
            sr.UIDRefContentItem(coded(("112227", "DCM", "Frame of Reference UID")), uid, context)
        )
    name = [source_series.code_item(standard.SOURCE)]
    for source in sources:
        item = Dataset()
        item.RelationshipType = "CONTAINS"
        item.ValueType = "IMAGE"
        item.ConceptNameCodeSequence = name
        item.ReferencedSOPSequence = [source_series.reference_item(source)]
        group.ContentSequence.append(item)
    library = _container(("111028", "DCM", "Image Library"))
    library.ContentSequence.append(group)
    return library


def _container(name: CodeTriple) -> Dataset:
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "CONTAINER"
    item.ConceptNameCodeSequence = [source_series.code_item(name)]
    item.ContinuityOfContent = "SEPARATE"
    item.ContentSequence = []
    return item
