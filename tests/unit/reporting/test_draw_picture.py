"""The drawn image shows the result on every shape of slice, and its pixels contain what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.testbed import results
from worker.pixels.arrays import ByteArray
from worker.reporting import draw_picture as drawing
from worker.reporting.draw_picture import ACTIVATION_THRESHOLD, colours, draw_picture, overlay

SOURCES = results.source_headers()
CLASSIFIED = results.classified(SOURCES)
NOT_ASSESSED = results.not_assessed(SOURCES)


def coloured(pixels: ByteArray) -> int:
    """How many pixels below the title are clearly not grey."""
    below = pixels[110:].astype(int)
    return int(((below.max(axis=-1) - below.min(axis=-1)) > 60).sum())


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


def test_result_without_key_image_is_drawn() -> None:
    shown = draw_picture(replace(NOT_ASSESSED, key_image=None, detail="word " * 400), results.MODEL)
    assert shown.shape == (drawing.HEIGHT, drawing.WIDTH, 3)
