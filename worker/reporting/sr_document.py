"""Build a TID 1500 Measurement Report (PS3.16) of measurement groups: what the reports of series and studies share.

Deterministic: the same values give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from highdicom import sr
from pydicom import Dataset

from worker.db.tables import ObjectKind
from worker.dicom import standard
from worker.reporting import source_attributes
from worker.reporting.encoding import encoded_item, encoded_items, encoded_reference, encoded_sequence
from worker.reporting.object_names import object_title, series_number, series_title
from worker.reporting.source_attributes import CodeTriple, SourceImage, coded
from worker.results import ModelClass, ModelIdentity, SliceResult


@dataclass(frozen=True, slots=True)
class Identity:
    """What a document of ours is called. `created_at`: aware, in the hospital's time zone."""

    series_instance_uid: str
    sop_instance_uid: str
    series_number: int
    series_description: str
    created_at: datetime
    worker_version: str

    @classmethod
    def of_series(
        cls,
        source: Dataset,
        kind: ObjectKind,
        series_instance_uid: str,
        sop_instance_uid: str,
        created_at: datetime,
        worker_version: str,
    ) -> Identity:
        """Of an object about a series, of which `source` is an image."""
        number, description = series_number(source, kind), object_title(series_title(source), kind)
        return cls(series_instance_uid, sop_instance_uid, number, description, created_at, worker_version)


def build_document(
    groups: list[sr.MeasurementsAndQualitativeEvaluations],
    model: ModelIdentity,
    images: Sequence[Sequence[SourceImage]],
    source: Dataset,
    identity: Identity,
    *,
    frame_of_reference: str | None = None,
    summary: str = "",
    predecessors: Sequence[Dataset] = (),
    comprehensive_3d: bool = True,
) -> Dataset:
    """The report, Explicit VR Little Endian, with file meta information.

    `images`: what was read, a list for each series. `source`: the header whose patient and study the report has.
    `frame_of_reference`: the UID that all images share. `summary` is shown before the list of images. `predecessors`:
    the headers of the reports to replace. `comprehensive_3d`: False for Comprehensive SR. Raises ValueError for a
    naive time.
    """
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=source_attributes.device_observer(model)),
        procedure_reported=coded(standard.MRI_PROCEDURE),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            coded(("en-US", "RFC5646", "English (United States)"))
        ),
        imaging_measurements=groups,
    )
    # The groups and the list of images are added after highdicom, which copies and checks its content tree several
    # times: two thirds of the time.
    measurements = content[0].ContentSequence.pop()
    sop_class = sr.Comprehensive3DSR if comprehensive_3d else sr.ComprehensiveSR
    listed = _by_series(images)
    document = sop_class(
        evidence=source_attributes.evidence([series[0] for series in listed.values()]),
        content=content,
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        instance_number=1 + max((int(report.InstanceNumber) for report in predecessors), default=0),
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=list(predecessors) or None,
    )
    report = Dataset(document)
    report.file_meta = document.file_meta
    _list_evidence(report, listed)
    told = [text_item(standard.COMMENT, summary)] if summary else []
    report.ContentSequence = [
        *document.ContentSequence,
        *told,
        _image_library(images, source, frame_of_reference),
        measurements,
    ]
    source_attributes.stamp(
        report, source, model, identity.created_at, identity.worker_version, identity.series_description
    )
    return report


def measurement_group(
    identifier: str,
    tracking_uid: str,
    model: ModelIdentity,
    answer: ModelClass | None,
    measured: list[sr.Measurement],
    images: Sequence[SliceResult],
    *,
    evaluations: Sequence[tuple[CodeTriple, CodeTriple]] = (),
    rule: str = "",
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501; `answer` is None for "not assessed". The model gives no laterality, so there is none.

    `evaluations`: further coded values. `rule`: a line for the algorithm's parameters.
    """
    named = [(presence_name(model), _presence(answer, model)), *evaluations]
    parameters = f"bundle sha256 {model.sha256}; {model.parameters}" + (f"; {rule}" if rule else "")
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=tracking_uid, identifier=identifier),
        finding_type=coded(answer.finding) if answer is not None and answer.finding is not None else None,
        finding_sites=[sr.FindingSite(coded(answer.site))] if answer is not None else None,
        algorithm_id=sr.AlgorithmIdentification(
            name=model.name,
            version=model.version,
            parameters=[parameters],  # viewers show the first only
        ),
        measurements=measured,
        qualitative_evaluations=[sr.QualitativeEvaluation(name=coded(name), value=coded(code)) for name, code in named],
        source_images=[
            sr.SourceImageForMeasurementGroup(
                item.sop_class_uid,
                item.sop_instance_uid,
                [item.frame_number] if item.frame_number is not None else None,
            )
            for item in images
        ],
    )


def add_text(group: sr.MeasurementsAndQualitativeEvaluations, name: CodeTriple, text: str) -> None:
    """Add a text to a measurement group."""
    contains = sr.RelationshipTypeValues.CONTAINS
    group[0].ContentSequence.append(sr.TextContentItem(name=coded(name), value=text, relationship_type=contains))


def presence_name(model: ModelIdentity) -> CodeTriple:
    """What the report calls present, absent or undetermined: a neoplasm, or a lesion where the model knows none."""
    if model.presence is not None:
        return model.presence.value, model.presence.scheme, model.presence.meaning
    return standard.NEOPLASM if model.names_neoplasms else standard.LESION


def _presence(answer: ModelClass | None, model: ModelIdentity) -> CodeTriple:
    if answer is None:
        return standard.UNDETERMINED
    is_present = answer.neoplasm if presence_name(model) == standard.NEOPLASM else answer.is_lesion
    return standard.PRESENT if is_present else standard.ABSENT


def probability(model_class: ModelClass, model: ModelIdentity, value: float) -> sr.Measurement:
    """TID 300: Probability with the class as its qualifier, and as a modifier, which viewers show."""
    if model_class.finding is not None:
        name, code = coded(standard.FINDING), coded(model_class.finding)
    else:
        others = any(item.is_lesion and not item.neoplasm for item in model.classes)
        absent = standard.LESION if others and model.presence is None else presence_name(model)
        name, code = coded(absent), coded(standard.ABSENT)
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


def probabilities(
    model: ModelIdentity, answer: ModelClass, by_class: Mapping[str, float], value: float
) -> list[sr.Measurement]:
    """The probability of each class, after that of an answer that is no class."""
    measured = [probability(item, model, by_class[item.name]) for item in model.classes]
    return measured if answer in model.classes else [probability(answer, model, value), *measured]


def sequence_in_words(sequence: str) -> str:
    """A sequence of AnswerBasis for a person."""
    return "T1 with contrast agent" if sequence == "T1C" else sequence


def text_item(name: CodeTriple, text: str) -> Dataset:
    """A TEXT content item below the root."""
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "TEXT"
    item.ConceptNameCodeSequence = [source_attributes.code_item(name)]
    item.TextValue = text
    return item


def _by_series(images: Sequence[Sequence[SourceImage]]) -> dict[tuple[str, str], list[SourceImage]]:
    """Study and Series Instance UID → images, each once."""
    listed: dict[tuple[str, str], list[SourceImage]] = {}
    seen: set[str] = set()
    for image in chain.from_iterable(images):
        if image.sop_instance_uid not in seen:
            seen.add(image.sop_instance_uid)
            listed.setdefault((image.study_instance_uid, image.series_instance_uid), []).append(image)
    return listed


def _list_evidence(report: Dataset, listed: Mapping[tuple[str, str], Sequence[SourceImage]]) -> None:
    """List all images where highdicom has listed the first of each series."""
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in report.get(keyword, ()):
            for series in study.ReferencedSeriesSequence:
                images = listed[study.StudyInstanceUID, series.SeriesInstanceUID]
                series["ReferencedSOPSequence"] = encoded_sequence("ReferencedSOPSequence", _references(images))


def _references(images: Iterable[SourceImage]) -> Iterator[bytes]:
    return (encoded_reference(image.sop_class_uid, image.sop_instance_uid) for image in images)


def _image_library(images: Sequence[Sequence[SourceImage]], source: Dataset, frame_of_reference: str | None) -> Dataset:
    """TID 1600: every image read, in a group for each series with the attributes that its images share.

    highdicom's implementation requires geometry of every image and writes seventeen items for each.
    """
    modality = standard.MODALITIES.get(source_attributes.modality(source), standard.MODALITIES["OT"])
    context = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    shared = [sr.CodeContentItem(coded(("121139", "DCM", "Modality")), coded(modality), context)]
    if frame_of_reference is not None:
        name = coded(("112227", "DCM", "Frame of Reference UID"))
        shared.append(sr.UIDRefContentItem(name, frame_of_reference, context))
    beginning = [encoded_item(item) for item in shared]
    image_item = Dataset()
    image_item.RelationshipType, image_item.ValueType = "CONTAINS", "IMAGE"
    image_item.ConceptNameCodeSequence = [source_attributes.code_item(standard.SOURCE)]
    library = _container(("111028", "DCM", "Image Library"))
    for series in images:
        group = _container(("126200", "DCM", "Image Library Group"))
        items = [*beginning, *encoded_items(image_item, _references(series))]
        group["ContentSequence"] = encoded_sequence("ContentSequence", items)
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
