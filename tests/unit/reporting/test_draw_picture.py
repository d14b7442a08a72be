"""The drawn image shows the result on every shape of slice, and its pixels contain what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.testbed import results
from worker.pixels.arrays import ByteArray
from worker.pixels.geometry import Edges
from worker.reporting import draw_picture as drawing
from worker.reporting import drawing as primitives
from worker.reporting.draw_picture import draw_picture

SOURCES = results.source_headers()
MODEL = results.MODEL_OF_LESIONS
EDGES = Edges("R", "L", "A", "P")
CLASSIFIED = results.classified(SOURCES)
NOT_ASSESSED = results.not_assessed(SOURCES)


def coloured(pixels: ByteArray) -> int:
    """How many pixels below the title are clearly not grey."""
    below = pixels[110:].astype(int)
    return int(((below.max(axis=-1) - below.min(axis=-1)) > 60).sum())


def test_research_use_is_burnt_in(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = draw_picture(CLASSIFIED, results.MODEL)
    monkeypatch.setattr(primitives, "RESEARCH_USE", "")
    without = draw_picture(CLASSIFIED, results.MODEL)
    changed = (shown != without).any(axis=-1)
    assert changed[:36].sum() > 500
    assert not changed[36:].any()


@pytest.mark.parametrize("what", ["label", "model", "probability", "slice", "missing", "series type", "position"])
def test_each_fact_is_in_the_pixels(what: str) -> None:
    others = {
        "label": (results.classified(SOURCES, "meningioma"), results.MODEL),
        "model": (CLASSIFIED, replace(results.MODEL, version="0.2.0")),
        "probability": (results.classified(SOURCES, probability=0.61), results.MODEL),
        "slice": (replace(CLASSIFIED, key_image=results.key_image(2)), results.MODEL),
        "series type": (replace(CLASSIFIED, series_type="FLAIR, axial"), results.MODEL),
        "position": (
            replace(CLASSIFIED, slices=tuple(replace(s, position_mm=3.5) for s in CLASSIFIED.slices)),
            results.MODEL,
        ),
        "missing": (replace(CLASSIFIED, missing="8 of the 10 images that the sender has"), results.MODEL),
    }
    assert not np.array_equal(draw_picture(*others[what]), draw_picture(CLASSIFIED, results.MODEL))


def test_no_lesion_has_no_map_even_if_there_is_one() -> None:
    assert coloured(draw_picture(results.classified(SOURCES, "notumor"), results.MODEL)) == 0
    for label in ("tumor", "other"):
        assert coloured(draw_picture(results.classified(SOURCES, label, 0.9, MODEL), MODEL)) > 1000


def test_letters_stand_beside_the_slice_and_the_slice_is_whole() -> None:
    white = np.full((200, 200), 255, dtype=np.uint8)
    key = replace(results.key_image(0), image=white, activation=None)
    plain = draw_picture(replace(CLASSIFIED, key_image=key), results.MODEL)[112:524, 20:460]
    lettered = draw_picture(replace(CLASSIFIED, key_image=replace(key, edges=EDGES)), results.MODEL)[112:524, 20:460]
    assert (plain == 255).all(axis=-1).sum() == 412 * 412
    assert (lettered[26:386, 40:400] == 255).all()
    beside = lettered.copy()
    beside[26:386, 40:400] = 0
    sides = [beside[:26, 200:240], beside[386:, 200:240], beside[190:220, :40], beside[190:220, 400:]]
    assert all(int((side.min(axis=-1) > 150).sum()) > 15 for side in sides)
    other = replace(key, edges=replace(EDGES, left="L", right="R"))
    assert not np.array_equal(
        draw_picture(replace(CLASSIFIED, key_image=other), results.MODEL)[112:524, 20:460], lettered
    )


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


def test_result_without_key_image_is_drawn() -> None:
    shown = draw_picture(replace(NOT_ASSESSED, key_image=None, detail="word " * 400), results.MODEL)
    assert shown.shape == (drawing.HEIGHT, drawing.WIDTH, 3)
