"""The picture of a study: every row is there, and nothing is drawn beyond its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.testbed import results
from worker.pixels.arrays import ByteArray
from worker.reporting import draw_study as drawing
from worker.reporting.draw_study import draw_study

STUDIES = results.STUDIES
ONE = STUDIES["one series"]


def _coloured(pixels: ByteArray) -> int:
    """How many pixels of the slices have the colours of a map."""
    part = pixels[190:-100, 20:1100].astype(int)
    return int((part.max(axis=2) - part.min(axis=2) > 60).sum())


def _ink(pixels: ByteArray) -> int:
    return int((pixels[37:].max(axis=2) > 60).sum())


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_drawn_as_wide_as_a_monitor_and_as_high_as_it_has_rows(name: str) -> None:
    study = STUDIES[name]
    shown = draw_study(study, results.MODEL, results.key_images_of(study))
    assert (shown.shape[1:], shown.dtype) == ((drawing.WIDTH, 3), np.uint8)
    assert shown.shape[0] <= 1300
    assert not (shown[37:, drawing.WIDTH - 18 :] > 60).any(), "nothing is cut off at the right"


def test_slices_are_shown_with_maps_only_where_there_are_maps() -> None:
    with_maps = draw_study(ONE, results.MODEL, results.key_images_of(ONE))
    without = draw_study(ONE, results.MODEL, results.key_images_of(ONE, activation=False))
    assert _coloured(with_maps) > 1000 > _coloured(without)
    assert with_maps.shape[0] > without.shape[0]


def test_each_fact_is_in_the_pixels() -> None:
    study = STUDIES["series disagree"]
    images = results.key_images_of(study)
    whole = _ink(draw_study(study, results.MODEL, images))
    other = replace(study.series[1], description="")
    assert _ink(draw_study(replace(study, series=(study.series[0], other)), results.MODEL, images)) < whole
    quiet = replace(study, result=replace(study.result, detail="x"))
    assert _ink(draw_study(quiet, results.MODEL, images)) < whole
    assert _ink(draw_study(study, results.MODEL, images[:1])) < whole


def test_of_many_series_the_deciding_and_the_assessed_are_listed() -> None:
    refused = [results.series_said(number, None, reason="localizer", images=0) for number in range(1, 60)]
    study = results.reported_study([*refused, results.series_said(70, "glioma", weight=1.0)], deciding=59)
    rows, omitted = drawing._rows(study)
    assert (len(rows), omitted, rows[-1] is study.deciding) == (drawing.ROWS, 36, True)
    shown = draw_study(study, results.MODEL, results.key_images_of(study))
    assert shown.shape[0] < 1800


def test_a_study_whose_files_are_gone_is_drawn_without_slices() -> None:
    shown = draw_study(ONE, results.MODEL, [])
    assert shown.shape[0] < 400


def test_the_map_of_a_single_slice_is_beside_it() -> None:
    [image, *_] = results.key_images_of(ONE)
    single, several = (draw_study(ONE, results.MODEL, images) for images in ([image], [image, image]))
    assert single.shape[0] < several.shape[0]
    left, right = single[135:545, 25:560].astype(int), single[135:545, 590:1120].astype(int)
    spread = [int((part.max(axis=2) - part.min(axis=2) > 60).sum()) for part in (left, right)]
    assert spread[1] > 1000 > spread[0]
