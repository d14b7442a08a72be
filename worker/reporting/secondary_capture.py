"""Build the Secondary Capture of a series result (slice and heat map), and the Key Object Selection of its key slices.

Deterministic: the same values give the same bytes. Many viewers show no Structured Report; every viewer shows these.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime

from highdicom import ko
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from worker.db.tables import ObjectKind
from worker.dicom import standard
from worker.inference.illustrated import IllustratedResult, KeyImage
from worker.pixels.arrays import ByteArray
from worker.reporting import source_attributes
from worker.reporting.draw_picture import draw_picture, shows_map
from worker.reporting.draw_study import KEY_IMAGES, draw_study
from worker.reporting.source_attributes import RESEARCH_USE, SourceImage
from worker.reporting.sr_document import Identity
from worker.results import ModelIdentity, ReportedStudy, SliceResult


@source_attributes.no_warnings()
def build_secondary_capture(
    result: IllustratedResult,
    model: ModelIdentity,
    sources: Sequence[Dataset],
    *,
    series_instance_uid: str,
    sop_instance_uid: str,
    created_at: datetime,
    worker_version: str,
) -> Dataset:
    """Build the Secondary Capture (PS3.3 A.8.1) of a result: RGB, 600 x 1024, Explicit VR Little Endian.

    `sources` and `created_at` as for `build_report`. Modality is OT, so that a PACS which sends every MR series
    to the worker does not send this series back to be classified. Raises ValueError for no sources or a naive time.
    """
    if not sources:
        raise ValueError("no source images")
    identity = Identity.of_series(
        sources[0], ObjectKind.PICTURE, series_instance_uid, sop_instance_uid, created_at, worker_version
    )
    pixels, shown = draw_picture(result, model), [_source_image(result, sources)]
    return _capture(pixels, model, sources[0], shown, identity, burned_in_of(sources), shows_map(result, model))


@source_attributes.no_warnings()
def build_study_capture(
    study: ReportedStudy,
    model: ModelIdentity,
    source: Dataset,
    key_images: Sequence[KeyImage],
    identity: Identity,
    burned_in: str,
) -> Dataset:
    """Build the Secondary Capture of a study, like that of a series: RGB, 1280 pixels wide.

    `source` as for `build_study_report`, `key_images` as for `draw_study`. `burned_in`: Burned In Annotation of the
    images that it shows. Raises ValueError for a naive time.
    """
    key_slices = dict(study.deciding.key_slices) if study.deciding is not None else {}
    shown = [reference_slice(key_slices[image.slice_index + 1]) for image in key_images[:KEY_IMAGES]]
    has_map = any(image.activation is not None for image in key_images[:KEY_IMAGES])
    pixels = draw_study(study, model, key_images)
    return _capture(pixels, model, source, shown, identity, burned_in, has_map)


def _capture(
    pixels: ByteArray,
    model: ModelIdentity,
    source: Dataset,
    shown: Sequence[Dataset],
    identity: Identity,
    burned_in: str,
    has_map: bool,
) -> Dataset:
    """A Secondary Capture. `shown`: references to the images of which it is made."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = identity.sop_instance_uid
    ds.SeriesInstanceUID = identity.series_instance_uid
    ds.SeriesNumber = identity.series_number
    ds.InstanceNumber = 1
    ds.Modality = "OT"
    ds.ConversionType = "WSD"  # workstation
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = ds.Laterality = ""  # unknown, and never guessed
    if burned_in:
        ds.BurnedInAnnotation = burned_in
    ds.ImageComments = f"{RESEARCH_USE}. {model.limits}"[:10240]
    if has_map:
        ds.DerivationCodeSequence = [source_attributes.code_item(standard.CLASS_ACTIVATION)]
    ds.DerivationDescription = f"Slice{' with class activation map' if has_map else ''}, {RESEARCH_USE}"
    if shown:
        for item in shown:
            item.PurposeOfReferenceCodeSequence = [source_attributes.code_item(standard.SOURCE_IMAGE)]
        ds.SourceImageSequence = list(shown)
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.PixelData = pixels.tobytes()
    source_attributes.stamp(
        ds, source, model, identity.created_at, identity.worker_version, identity.series_description
    )
    return ds


def secondary_capture_png(result: IllustratedResult, model: ModelIdentity) -> bytes:
    """The image of the Secondary Capture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(draw_picture(result, model)).save(buffer, format="PNG")
    return buffer.getvalue()


@source_attributes.no_warnings()
def build_key_object_selection(
    result: IllustratedResult,
    model: ModelIdentity,
    sources: Sequence[Dataset],
    *,
    series_instance_uid: str,
    sop_instance_uid: str,
    created_at: datetime,
    worker_version: str,
) -> Dataset:
    """Build the Key Object Selection (PS3.16 TID 2010) of the deciding slices.

    Raises ValueError where no slice decided.
    """
    identity = Identity.of_series(
        sources[0], ObjectKind.KEY_OBJECTS, series_instance_uid, sop_instance_uid, created_at, worker_version
    )
    deciding = [item for item in result.slices if item.deciding]
    return build_selection(deciding, model, [SourceImage.of(source) for source in sources], sources[0], identity)


@source_attributes.no_warnings()
def build_selection(
    key_slices: Sequence[SliceResult],
    model: ModelIdentity,
    images: Sequence[SourceImage],
    source: Dataset,
    identity: Identity,
) -> Dataset:
    """Build the Key Object Selection of slices. `images`: theirs and others.

    `source`: the header whose patient and study it has. Raises ValueError without slices.
    """
    if not key_slices:
        raise ValueError("no slice decided")
    frames: dict[str, list[int]] = {}  # SOP Instance UID → deciding frames, none for a single-frame image
    for item in key_slices:
        numbers = frames.setdefault(item.sop_instance_uid, [])
        if item.frame_number and item.frame_number not in numbers:  # a frame may stand for several reformatted slices
            numbers.append(item.frame_number)
    referenced = source_attributes.evidence([image for image in images if image.sop_instance_uid in frames])
    for image in referenced:
        image.Rows = image.Columns = 1  # without them highdicom refers to a COMPOSITE
    content = ko.KeyObjectSelection(
        document_title=source_attributes.coded(standard.OF_INTEREST),
        referenced_objects=referenced,
        observer_device_context=source_attributes.device_observer(model),
        description=f"Slices that decided the classification. {RESEARCH_USE}.",
    )
    for item in content[0].ContentSequence:
        if item.ValueType == "IMAGE" and (numbers := frames[item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID]):
            item.ReferencedSOPSequence[0].ReferencedFrameNumber = numbers
    document = ko.KeyObjectSelectionDocument(
        evidence=referenced,
        content=content,
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        instance_number=1,
    )
    selection = Dataset(document)
    selection.file_meta = document.file_meta
    for item in selection.ContentSequence:
        if item.ValueType == "IMAGE":
            del item.ConceptNameCodeSequence  # of highdicom; TID 2010: a purpose of reference shall not be present
    source_attributes.stamp(
        selection, source, model, identity.created_at, identity.worker_version, identity.series_description
    )
    return selection


def burned_in_of(sources: Sequence[Dataset]) -> str:
    """Burned In Annotation: whether the pixels identify the patient and the date (PS3.3 C.7.6.1). We write neither.

    So it is that of the sources; empty for captured images that do not tell.
    """
    told = {source_attributes.burned_in_annotation(source) for source in sources}
    return "YES" if "YES" in told else "" if "" in told else "NO"


def _source_image(result: IllustratedResult, sources: Sequence[Dataset]) -> Dataset:
    """The image that the Secondary Capture shows, with its frame; the first image where there is no key image."""
    if result.key_image is not None and result.slices:
        return reference_slice(result.slices[result.key_image.slice_index])
    return source_attributes.reference_item(sources[0])


def reference_slice(key_slice: SliceResult) -> Dataset:
    """An item that names the image of a slice, and its frame."""
    item = Dataset()
    item.ReferencedSOPClassUID = key_slice.sop_class_uid
    item.ReferencedSOPInstanceUID = key_slice.sop_instance_uid
    if key_slice.frame_number is not None:
        item.ReferencedFrameNumber = key_slice.frame_number
    return item
