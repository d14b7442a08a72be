"""Whether a map hits a box, on maps whose answer is known; which mistakes are shown first."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from monai_train.evaluation.activation import centre_of_mass, in_boxes, map_hits, overlay, worst_mistakes
from monai_train.evaluation.evaluate import Evidence
from monai_train.evaluation.metrics import Predictions
from tests.testbed.converted import CLASSES

TOP_LEFT, TOP_RIGHT = (0, 0), (0, 3)


def peaks(positions: list[tuple[int, int]]) -> np.ndarray:
    """Maps [n, 4, 4, 4], the same for every class, with one peak each."""
    maps = np.zeros((len(positions), 4, 4, 4), np.float32)
    for own, (row, column) in zip(maps, positions, strict=True):
        own[:, row, column] = 1
    return maps


def evidence(maps: np.ndarray, boxes: list[tuple[float, float, float, float]]) -> Evidence:
    n = len(maps)
    return Evidence(
        (), np.zeros((n, 16, 16), np.uint8), np.array(boxes, np.float32), np.zeros((n, 2), np.float32), maps
    )


def answers(truth: list[int], answer: list[int]) -> Predictions:
    probabilities = np.full((len(truth), 4), 0.1, np.float32)
    probabilities[np.arange(len(truth)), answer] = 0.7
    return Predictions(
        CLASSES,
        np.array(truth),
        probabilities,
        np.array([f"G{i}" for i in range(len(truth))]),
        np.ones(len(truth), bool),
    )


def test_centre_of_mass_is_in_fractions_of_the_picture() -> None:
    deduplicated = np.zeros((4, 8), np.float32)
    deduplicated[1, 6] = 3
    assert centre_of_mass(deduplicated) == pytest.approx((6.5 / 8, 1.5 / 4))
    assert centre_of_mass(np.zeros((4, 4), np.float32)) == (0.5, 0.5)


def test_box_is_enlarged_by_a_tenth() -> None:
    box = np.array([[0.5, 0.5, 0.2, 0.4]] * 4)
    points = np.array([[0.609, 0.5], [0.611, 0.5], [0.5, 0.719], [0.5, 0.721]])
    assert in_boxes(points, box).tolist() == [True, False, True, False]


def test_hits_are_of_tumour_slices_with_a_box_and_a_missed_tumour_is_a_miss() -> None:
    left, right, unknown = (0.125, 0.125, 0.2, 0.2), (0.875, 0.125, 0.2, 0.2), (np.nan,) * 4
    seen = evidence(peaks([TOP_LEFT, TOP_LEFT, TOP_LEFT, TOP_RIGHT, TOP_LEFT]), [left, right, left, right, unknown])
    #                       hit, other side, called no tumour, hit, no box
    found = map_hits(answers([0, 0, 0, 1, 2], [0, 0, 3, 2, 2]), seen)
    assert found is not None
    assert found.hits.n == 4
    assert found.hits.value == 0.5
    assert found.centre.value == 0


def test_no_box_no_figure() -> None:
    assert map_hits(answers([0, 3], [0, 3]), evidence(peaks([TOP_LEFT] * 2), [(np.nan,) * 4] * 2)) is None


def test_surest_mistakes_come_first_and_no_patient_fills_the_gallery() -> None:
    predictions = answers([0, 1, 2, 3, 0], [0, 0, 0, 0, 1])
    predictions.probabilities[:, :] = [[0.9, 0, 0, 0], [0.5, 0, 0, 0], [0.8, 0, 0, 0], [0.7, 0, 0, 0], [0, 0.6, 0, 0]]
    assert worst_mistakes(predictions, 10) == [2, 3, 4, 1]
    assert worst_mistakes(predictions, 2) == [2, 3]
    of_one_patient = Predictions(
        CLASSES, predictions.truth, predictions.probabilities, np.array(["a"] * 5), predictions.assessed
    )
    assert worst_mistakes(of_one_patient, 10) == [2, 3]
    unreadable = Predictions(
        CLASSES, predictions.truth, np.full((5, 4), np.nan, np.float32), predictions.groups, predictions.assessed
    )
    assert worst_mistakes(unreadable, 10) == []


def test_overlay_leaves_the_picture_and_marks_peak_and_box() -> None:
    pixels = np.full((40, 40), 100, np.uint8)
    drawn = overlay(pixels, peaks([TOP_RIGHT])[0, 0], np.array([0.25, 0.75, 0.2, 0.2], np.float32))
    shown = np.asarray(Image.open(io.BytesIO(drawn))).astype(int)
    assert shown.shape == (40, 80, 3)
    assert (shown[:, :40] == 100).all()
    right = shown[:, 40:]
    assert right[5, 35, 0] - right[5, 35, 2] > 60  # orange at the peak
    assert (right[35, 35] == 100).all()  # nothing where the map is silent
    assert tuple(right[26, 10]) == (86, 180, 233)  # the box's upper edge
