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

from worker.dicom import standard
from worker.inference.illustrated import IllustratedResult
from worker.reporting import source_attributes
from worker.reporting.draw_picture import draw_picture, shows_map
from worker.reporting.source_attributes import RESEARCH_USE
from worker.results import ModelIdentity

PICTURE_SERIES_NUMBER = 9902
KEY_OBJECTS_SERIES_NUMBER = 9903


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
    pixels = draw_picture(result, model)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = sop_instance_uid
    ds.SeriesInstanceUID = series_instance_uid
    ds.SeriesNumber = PICTURE_SERIES_NUMBER
    ds.InstanceNumber = 1
    ds.Modality = "OT"
    ds.ConversionType = "WSD"  # workstation
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = ds.Laterality = ""  # unknown, and never guessed
    if annotated := _burned_in(sources):
        ds.BurnedInAnnotation = annotated
    ds.ImageComments = f"{RESEARCH_USE}. {model.limits}"[:10240]
    if has_map := shows_map(result, model):
        ds.DerivationCodeSequence = [source_attributes.code_item(standard.CLASS_ACTIVATION)]
    ds.DerivationDescription = f"Slice{' with class activation map' if has_map else ''}, {RESEARCH_USE}"
    ds.SourceImageSequence = [_source_image(result, sources)]
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.PixelData = pixels.tobytes()
    title = f"AI brain MRI {'heat map' if has_map else 'key slice'}, unverified, research use"
    source_attributes.stamp(ds, sources[0], model, created_at, worker_version, title)
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
    deciding = [item for item in result.slices if item.deciding]
    if not deciding:
        raise ValueError("no slice decided")
    frames: dict[str, list[int]] = {}  # SOP Instance UID → deciding frames, none for a single-frame image
    for item in deciding:
        numbers = frames.setdefault(item.sop_instance_uid, [])
        if item.frame_number and item.frame_number not in numbers:  # a frame may stand for several reformatted slices
            numbers.append(item.frame_number)
    referenced = [source for source in sources if source.SOPInstanceUID in frames]
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
        evidence=source_attributes.evidence(referenced),
        content=content,
        series_instance_uid=series_instance_uid,
        series_number=KEY_OBJECTS_SERIES_NUMBER,
        sop_instance_uid=sop_instance_uid,
        instance_number=1,
    )
    selection = Dataset(document)
    selection.file_meta = document.file_meta
    for item in selection.ContentSequence:
        if item.ValueType == "IMAGE":
            del item.ConceptNameCodeSequence  # of highdicom; TID 2010: a purpose of reference shall not be present
    title = "AI brain MRI key images, unverified, research use"
    source_attributes.stamp(selection, sources[0], model, created_at, worker_version, title)
    return selection


def _burned_in(sources: Sequence[Dataset]) -> str:
    """Burned In Annotation: whether the pixels identify the patient and the date (PS3.3 C.7.6.1). We write neither.

    So it is that of the sources; empty for captured images that do not tell.
    """
    told = {source_attributes.burned_in_annotation(source) for source in sources}
    return "YES" if "YES" in told else "" if "" in told else "NO"


def _source_image(result: IllustratedResult, sources: Sequence[Dataset]) -> Dataset:
    """The image that the Secondary Capture shows, with its frame; the first image where there is no key image."""
    item = source_attributes.reference_item(sources[0])
    if result.key_image is not None and result.slices:
        key_slice = result.slices[result.key_image.slice_index]
        item.ReferencedSOPClassUID = key_slice.sop_class_uid
        item.ReferencedSOPInstanceUID = key_slice.sop_instance_uid
        if key_slice.frame_number is not None:
            item.ReferencedFrameNumber = key_slice.frame_number
    item.PurposeOfReferenceCodeSequence = [source_attributes.code_item(standard.SOURCE_IMAGE)]
    return item
