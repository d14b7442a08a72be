"""The picture shows what the result says on every shape of image, and says in its pixels what it is."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from highdicom import ko
from PIL import Image
from pydicom import dcmread, dcmwrite

from tests.testbed import results
from worker.pixels.arrays import ByteArray
from worker.reporting import draw_picture as drawing
from worker.reporting.draw_picture import ACTIVATION_THRESHOLD, colours, draw_picture, overlay
from worker.reporting.secondary_capture import (
    build_key_object_selection,
    build_secondary_capture,
    secondary_capture_png,
)

SOURCES = results.source_headers()
CLASSIFIED = results.classified(SOURCES)
NOT_ASSESSED = results.not_assessed(SOURCES)


def coloured(pixels: ByteArray) -> int:
    """How many pixels below the title are clearly not grey."""
    below = pixels[110:].astype(int)
    return int(((below.max(axis=-1) - below.min(axis=-1)) > 60).sum())


def test_capture_holds_the_drawn_pixels_and_says_what_it_is() -> None:
    buffer = BytesIO()
    picture = build_secondary_capture(CLASSIFIED, results.MODEL, SOURCES, **results.ARGUMENTS)
    dcmwrite(buffer, picture, enforce_file_format=True)
    buffer.seek(0)
    ds = dcmread(buffer)
    assert np.array_equal(ds.pixel_array, draw_picture(CLASSIFIED, results.MODEL))
    assert (ds.Modality, ds.BurnedInAnnotation, ds.PatientName) == ("OT", "YES", "Phantom^Template")
    assert ds.DerivationCodeSequence[0].CodeMeaning == "Class activation"
    [source] = ds.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == SOURCES[4].SOPInstanceUID
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


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


def test_research_use_is_burnt_in(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = draw_picture(CLASSIFIED, results.MODEL)
    monkeypatch.setattr(drawing, "RESEARCH_USE", "")
    without = draw_picture(CLASSIFIED, results.MODEL)
    changed = (shown != without).any(axis=-1)
    assert changed[:36].sum() > 500
    assert not changed[36:].any()


@pytest.mark.parametrize("what", ["label", "model", "probability", "slice", "missing"])
def test_each_fact_is_in_the_pixels(what: str) -> None:
    others = {
        "label": (results.classified(SOURCES, "meningioma"), results.MODEL),
        "model": (CLASSIFIED, replace(results.MODEL, version="0.2.0")),
        "probability": (results.classified(SOURCES, probability=0.61), results.MODEL),
        "slice": (replace(CLASSIFIED, key_image=results.key_image(2)), results.MODEL),
        "missing": (replace(CLASSIFIED, missing="8 of the 10 images that the sender has"), results.MODEL),
    }
    assert not np.array_equal(draw_picture(*others[what]), draw_picture(CLASSIFIED, results.MODEL))


def test_not_assessed_shows_slice_and_reason_but_no_map() -> None:
    shown = draw_picture(NOT_ASSESSED, results.MODEL)
    assert coloured(draw_picture(CLASSIFIED, results.MODEL)) > 1000
    assert coloured(shown) == 0
    other = draw_picture(replace(NOT_ASSESSED, detail="Another reason."), results.MODEL)
    changed = (shown != other).any(axis=-1)
    assert changed[:, 484:].any()
    assert not changed[:, :484].any()


def test_result_without_picture_is_drawn() -> None:
    shown = draw_picture(replace(NOT_ASSESSED, key_image=None, detail="word " * 400), results.MODEL)
    assert shown.shape == (drawing.HEIGHT, drawing.WIDTH, 3)
    ds = build_secondary_capture(
        replace(NOT_ASSESSED, key_image=None, slices=()), results.MODEL, SOURCES, **results.ARGUMENTS
    )
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == SOURCES[0].SOPInstanceUID


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 500), (500, 1), (16, 16), (120, 320), (2000, 1500)])
def test_any_shape_fits_its_frame(rows: int, columns: int) -> None:
    white = np.full((rows, columns), 255, dtype=np.uint8)
    picture = replace(results.key_image(0, rows, columns), image=white, activation=None)
    shown = draw_picture(replace(CLASSIFIED, key_image=picture), results.MODEL)
    lit = np.argwhere((shown[112:524, :484] == 255).all(axis=-1))
    height, width = lit.max(axis=0) - lit.min(axis=0) + 1
    scale = min(440 / columns, 412 / rows)
    assert (abs(height - max(1, rows * scale)) <= 1, abs(width - max(1, columns * scale)) <= 1) == (True, True)


def test_long_names_stay_inside_their_column() -> None:
    names = replace(
        results.MODEL,
        name="model " * 40,
        classes=(replace(results.MODEL.classes[0], title="W" * 300), *results.MODEL.classes[1:]),
    )
    shown = draw_picture(CLASSIFIED, names)
    title = shown[40:110] > 60
    assert not title[:, 605:620].any()  # the gap between title and model name
    assert not title[:, 1006:].any()


def test_map_is_clear_below_the_threshold() -> None:
    image = np.full((4, 5), 100, dtype=np.uint8)
    activation = np.full((4, 5), ACTIVATION_THRESHOLD - 0.01, dtype=np.float32)
    activation[0, 0], activation[0, 1] = 1.0, np.nan
    seen = overlay(image, activation)
    assert (seen[1:] == 100).all()
    assert (seen[0, 1] == 100).all()
    assert np.ptp(seen[0, 0].astype(int)) > 60


def test_colours_are_those_of_plasma() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    values = np.linspace(0, 1, 101, dtype=np.float32)
    expected = matplotlib.colormaps["plasma"](values)[:, :3] * 255
    assert np.abs(colours(values) - expected).max() < 8


@pytest.mark.parametrize(
    ("probability", "text"), [(0.9999, "> 99.9 %"), (1.0, "> 99.9 %"), (0.973, "97.3 %"), (0.0, "< 0.1 %")]
)
def test_no_probability_reads_as_certain(probability: float, text: str) -> None:
    assert drawing._percent(probability) == text


def test_key_objects_name_the_deciding_slices() -> None:
    ds = build_key_object_selection(CLASSIFIED, results.MODEL, SOURCES, **results.ARGUMENTS)
    named = [item.ReferencedSOPSequence[0] for item in ds.ContentSequence if item.ValueType == "IMAGE"]
    assert [one.ReferencedSOPInstanceUID for one in named] == [s.SOPInstanceUID for s in SOURCES[3:6]]
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
    undecided = replace(NOT_ASSESSED, slices=tuple(replace(one, deciding=False) for one in NOT_ASSESSED.slices))
    with pytest.raises(ValueError, match="no slice decided"):
        build_key_object_selection(undecided, results.MODEL, SOURCES, **results.ARGUMENTS)
