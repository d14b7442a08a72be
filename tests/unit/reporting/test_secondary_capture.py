"""The Secondary Capture and the Key Object Selection: what they name, and that they are built alike every time."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from highdicom import ko
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.uid import SecondaryCaptureImageStorage

from tests.testbed import results
from worker.reporting.draw_picture import draw_picture
from worker.reporting.secondary_capture import (
    build_key_object_selection,
    build_secondary_capture,
    secondary_capture_png,
)

SOURCES = results.source_headers()
CLASSIFIED = results.classified(SOURCES)
NOT_ASSESSED = results.not_assessed(SOURCES)


def test_capture_holds_the_drawn_pixels_and_says_what_it_is() -> None:
    buffer = BytesIO()
    picture = build_secondary_capture(CLASSIFIED, results.MODEL, SOURCES, **results.ARGUMENTS)
    dcmwrite(buffer, picture, enforce_file_format=True)
    buffer.seek(0)
    ds = dcmread(buffer)
    assert np.array_equal(ds.pixel_array, draw_picture(CLASSIFIED, results.MODEL))
    assert (ds.Modality, ds.BurnedInAnnotation, ds.PatientName) == ("OT", "NO", "Phantom^Template")
    assert ds.DerivationCodeSequence[0].CodeMeaning == "Class activation"
    [source] = ds.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == SOURCES[4].SOPInstanceUID
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({}, "NO"),  # an MR image; what we write names no patient
        ({"BurnedInAnnotation": "NO", "SOPClassUID": SecondaryCaptureImageStorage}, "NO"),
        ({"BurnedInAnnotation": "YES"}, "YES"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, None),  # may show anything
        ({"BurnedInAnnotation": "perhaps"}, "NO"),
    ],
)
def test_capture_tells_whether_its_source_names_the_patient(attributes: dict[str, str], told: str | None) -> None:
    sources = results.source_headers(**attributes)
    ds = build_secondary_capture(results.classified(sources), results.MODEL, sources, **results.ARGUMENTS)
    assert ds.get("BurnedInAnnotation") == told


def test_capture_without_a_lesion_is_no_heat_map() -> None:
    nothing = results.classified(SOURCES, "notumor")
    for result in (nothing, NOT_ASSESSED):
        ds = build_secondary_capture(result, results.MODEL, SOURCES, **results.ARGUMENTS)
        assert "DerivationCodeSequence" not in ds
        assert "map" not in ds.DerivationDescription
    found = build_secondary_capture(CLASSIFIED, results.MODEL, SOURCES, **results.ARGUMENTS)
    assert "class activation map" in found.DerivationDescription
    assert found.SeriesDescription == "AI brain MRI: 3, picture"


def test_capture_of_enhanced_image_names_the_frame() -> None:
    sources = results.enhanced_header(12)
    ds = build_secondary_capture(results.classified(sources), results.MODEL, sources, **results.ARGUMENTS)
    assert ds.SourceImageSequence[0].ReferencedFrameNumber == 7


def test_same_input_gives_the_same_bytes() -> None:
    def built() -> list[bytes]:
        buffers = [BytesIO(), BytesIO()]
        for build, buffer in zip((build_secondary_capture, build_key_object_selection), buffers, strict=True):
            dcmwrite(buffer, build(CLASSIFIED, results.MODEL, SOURCES, **results.ARGUMENTS), enforce_file_format=True)
        return [buffer.getvalue() for buffer in buffers]

    assert built() == built()


def test_png_is_the_same_picture() -> None:
    with Image.open(BytesIO(secondary_capture_png(CLASSIFIED, results.MODEL))) as png:
        assert np.array_equal(np.asarray(png), draw_picture(CLASSIFIED, results.MODEL))


def test_result_without_key_image_names_the_first_image() -> None:
    ds = build_secondary_capture(
        replace(NOT_ASSESSED, key_image=None, slices=()), results.MODEL, SOURCES, **results.ARGUMENTS
    )
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == SOURCES[0].SOPInstanceUID


def test_key_objects_name_the_deciding_slices() -> None:
    ds = build_key_object_selection(CLASSIFIED, results.MODEL, SOURCES, **results.ARGUMENTS)
    named = [item.ReferencedSOPSequence[0] for item in ds.ContentSequence if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPInstanceUID for item in named] == [s.SOPInstanceUID for s in SOURCES[3:6]]
    [series] = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == 3
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    buffer.seek(0)
    read = ko.KeyObjectSelectionDocument.from_dataset(dcmread(buffer))
    assert read.resolve_reference(SOURCES[4].SOPInstanceUID)[2] == SOURCES[4].SOPInstanceUID
    assert len(read.content.get_references()) == 3


def test_key_objects_name_frames_of_an_enhanced_image() -> None:
    sources = results.enhanced_header(12)
    ds = build_key_object_selection(results.classified(sources), results.MODEL, sources, **results.ARGUMENTS)
    [named] = [item.ReferencedSOPSequence[0] for item in ds.ContentSequence if item.ValueType == "IMAGE"]
    assert list(named.ReferencedFrameNumber) == [6, 7, 8]


def test_no_key_objects_without_a_deciding_slice() -> None:
    undecided = replace(NOT_ASSESSED, slices=tuple(replace(item, deciding=False) for item in NOT_ASSESSED.slices))
    with pytest.raises(ValueError, match="no slice decided"):
        build_key_object_selection(undecided, results.MODEL, SOURCES, **results.ARGUMENTS)
